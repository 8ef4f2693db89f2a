"""Accounts of a shared page: a TOML file of names, hashed passwords and limits.

[ada]
password = "$argon2id$..."
admin = true
waiting = 4       # jobs in the queue at once
steps = 300       # any field of `Limits`
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .limits import PUBLIC, Limits
from .request import RequestError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
WAITING = 16  # jobs of an account in the queue, unless its entry says otherwise
CHECKS_AT_ONCE = 2  # of passwords; each takes 64 MB


class AccountsError(ValueError):
    """The file of accounts cannot be used; the message says why and what is allowed."""


@dataclass(frozen=True)
class Account:
    """Whose jobs, pictures and limits.

    name     "" is everybody, on a page without accounts
    hashed   its password by Argon2id, see argon2-cffi
    admin    may see and stop the jobs of all
    waiting  jobs in the queue at once; None is the queue's own limit
    limits   what one request may cost; None is what the page allows
    """

    name: str = ""
    hashed: str = ""
    admin: bool = False
    waiting: int | None = None
    limits: Limits | None = None


EVERYBODY = Account()


class Accounts:
    """The accounts of a file, read again when it changes. Raises AccountsError."""

    def __init__(self, file: Path):
        self._file, self._lock = file, threading.Lock()
        self._checks = threading.Semaphore(CHECKS_AT_ONCE)
        self._stamp: tuple[int, int] | None = None
        self._all: dict[str, Account] = {}
        self.all()

    def all(self) -> dict[str, Account]:
        """Every account by its name."""
        with self._lock:
            try:
                status = self._file.stat()
                stamp = (status.st_mtime_ns, status.st_size)
                if stamp != self._stamp:
                    self._all, self._stamp = read_accounts(self._file.read_text("utf-8")), stamp
            except (OSError, UnicodeDecodeError) as error:
                raise AccountsError(f"the file of accounts {self._file} cannot be read: {error}") from error
            return self._all

    def named(self, name: str) -> Account:
        """The account of this name. Raises RequestError for one that was removed while its owner was signed in."""
        if not name:
            return EVERYBODY
        account = self.all().get(name)
        if account is None:
            raise RequestError(f"The account {name} was removed; sign in with another.")
        return account

    def verify(self, name: str, password: str) -> bool:
        """Whether this is the account's password; as slow for a name that is not there."""
        from argon2 import PasswordHasher
        from argon2.exceptions import InvalidHashError, VerificationError

        account = self.all().get(name)
        with self._checks:
            try:
                if account is None:
                    PasswordHasher().hash(password)
                    return False
                return PasswordHasher().verify(account.hashed, password)
            except (VerificationError, InvalidHashError, UnicodeEncodeError):
                return False


def read_accounts(text: str) -> dict[str, Account]:
    """The accounts in the text of a file, by name. Raises AccountsError."""
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AccountsError(f"the file of accounts is not TOML: {error}") from error
    return {name: _account(name, entry) for name, entry in entries.items()}


def _account(name: str, entry: Any) -> Account:
    if not NAME.fullmatch(name):
        raise AccountsError(f"{name!r} is no name of an account; allowed are 1 to 32 of a-z, 0-9, - and _")
    if not isinstance(entry, dict) or not str(entry.get("password", "")).startswith("$argon2"):
        raise AccountsError(f"account {name} has no hashed password; write it with: python launch.py account {name}")
    known = {field.name for field in fields(Limits)}
    if unknown := entry.keys() - known - {"password", "admin", "waiting"}:
        allowed = ", ".join(["admin", "waiting", *sorted(known)])
        raise AccountsError(f"account {name} has {', '.join(sorted(unknown))}; allowed are {allowed}")
    numbers = {key: value for key, value in entry.items() if key not in ("password", "admin")}
    for key, value in numbers.items():
        if type(value) is not int or value < 1:
            raise AccountsError(f"{key} of account {name} is {value!r}; allowed are whole numbers from 1 on")
    if not isinstance(entry.get("admin", False), bool):
        raise AccountsError(f"admin of account {name} is {entry['admin']!r}; allowed are true and false")
    waiting = numbers.pop("waiting", WAITING)
    limits = replace(PUBLIC, **numbers) if numbers else None
    return Account(name, entry["password"], entry.get("admin", False), waiting, limits)


def write_account(file: Path, name: str, password: str, admin: bool | None = None) -> None:
    """Add an account to a file, or give it another password; its other settings stay. Raises AccountsError.

    admin  None leaves it as it is
    """
    from argon2 import PasswordHasher

    if not NAME.fullmatch(name):
        raise AccountsError(f"{name!r} is no name of an account; allowed are 1 to 32 of a-z, 0-9, - and _")
    entries = _entries(file)
    entry = entries.setdefault(name, {})
    entry["password"] = PasswordHasher().hash(password)
    if admin is not None:
        entry["admin"] = admin
    _write(file, entries)


def remove_account(file: Path, name: str) -> None:
    """Take an account out of a file; its pictures stay. Raises AccountsError."""
    entries = _entries(file)
    if entries.pop(name, None) is None:
        raise AccountsError(f"there is no account {name} in {file}; there are {', '.join(entries) or 'none'}")
    _write(file, entries)


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        return {}
    text = file.read_text("utf-8")
    read_accounts(text)
    return tomllib.loads(text)


def _write(file: Path, entries: dict[str, dict[str, Any]]) -> None:
    lines = ["# Accounts of Sigmalab; docs/sharing.md says what an entry may have."]
    for name, entry in entries.items():
        # Numbers, booleans and hashes are written alike in TOML and JSON.
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in entry.items())]
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    # For its owner's eyes only.
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
        opened.write("\n".join(lines) + "\n")
    os.replace(temporary, file)


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
