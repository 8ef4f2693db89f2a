"""`launch.py account`: write an entry of the file of accounts."""

from __future__ import annotations

import sys
from getpass import getpass
from pathlib import Path

from .core.accounts import AccountsError, remove_account, write_account

SHORTEST = 8  # characters of a password


def change_account(file: Path, name: str, admin: bool | None, remove: bool) -> int:
    """Add an account, change its password or remove it; the exit status. The password may also come through a pipe."""
    try:
        if remove:
            remove_account(file, name)
            print(f"Account {name} is removed; its pictures stay.")
            return 0
        password = _password()
        write_account(file, name, password, admin)
    except (AccountsError, OSError) as error:
        print(f"sigmalab: {error}", file=sys.stderr)
        return 1
    print(f"Account {name} is in {file}. Start with --auth-file {file}; a page that runs reads it by itself.")
    return 0


def _password() -> str:
    if sys.stdin.isatty():
        password = getpass("Password: ")
        if getpass("Once more: ") != password:
            raise AccountsError("the two passwords differ; nothing was changed")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if len(password) < SHORTEST:
        raise AccountsError(f"the password has {len(password)} characters; it needs {SHORTEST} at least")
    return password
