"""The one form of every message about a contract that is not kept."""

from __future__ import annotations

from typing import NoReturn


class CheckFailed(AssertionError):
    """The contract is not kept; the message says what was expected, what came, and where to look."""


def fail(expected: str, came: str, look: str) -> NoReturn:
    """Raise CheckFailed in the one form that every failure has."""
    raise CheckFailed(f"expected {expected}; got {came}; look at {look}")
