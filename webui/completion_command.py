"""`python launch.py completion SHELL`: a command `sigmalab` for a shell, which completes what it takes."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import shtab

from .command_line import page_parser, parsers
from .core.fields import fields_of
from .core.plugin_fields import PLUGIN_FIELDS
from .core.request import Request
from .draw_command import draw_flags
from .engine.opened_models import AvailableModels
from .engine.plugin_reloading import find_plugins
from .settings import Settings, existing_folder, output_folder

NAME = "sigmalab"
# The parts of a shell's script that say how the command is run.
COMMANDS = {"bash": '{0}() {{ {1} "$@"; }}', "zsh": '{0}() {{ {1} "$@"; }}', "fish": "function {0}; {1} $argv; end"}


def print_completion(settings: Settings, shell: str) -> int:
    """Print the script that defines the command and its completion; 0."""
    registry = find_plugins(settings)
    models = list(AvailableModels(settings, None).all())
    names: dict[str, Sequence[str]] = dict.fromkeys(("model", "hires_model", "refiner"), models)
    for field in PLUGIN_FIELDS:
        names[field.name] = [name for name, entry in field.entries(registry).items() if entry.name == name]
    run = shlex.join([sys.executable, str(settings.root / "launch.py")])
    print(COMMANDS[shell].format(NAME, run))
    print(shtab.complete(whole_parser(names), shell))
    return 0


def whole_parser(names: dict[str, Sequence[str]]) -> argparse.ArgumentParser:
    """One parser of all commands. names: what flags of these destinations may be given."""
    commands: dict[str, Callable[[], argparse.ArgumentParser]] = {"draw": draw_flags, **parsers()}
    page = page_parser()
    whole = argparse.ArgumentParser(NAME, parents=[page], add_help=False)
    below = whole.add_subparsers(metavar="COMMAND")
    for name, make in commands.items():
        flags = make()
        below.add_parser(name, parents=[flags], add_help=False, help=(flags.description or name).partition(". ")[0])
        _describe(flags, names)
    _describe(page, names)
    return whole


def _describe(flags: argparse.ArgumentParser, names: dict[str, Sequence[str]]) -> None:
    """Say of each argument of a parser what completes it; arguments are shared with the parsers made of this one."""
    fields = fields_of(Request)
    for action in flags._actions:  # what argparse's own help reads; shtab reads it, too
        if action.dest in names:
            action.complete = _one_of(action.dest, names[action.dest])  # type: ignore[attr-defined]
        elif action.type in (output_folder, existing_folder):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest in fields and fields[action.dest].values:
            action.choices = fields[action.dest].values


def _one_of(what: str, names: Iterable[str]) -> dict[str, Any]:
    """shtab's description of an argument that is one of these names, which may have blanks in them."""
    # bash quotes the blanks of what it takes for file names, as shtab tells it to for functions so named.
    function = f"_{NAME}_file_{what}"
    lines = shlex.quote("\n".join(map(shlex.quote, names)))
    body = f"{function}() {{ local IFS=$'\\n'; compgen -W {lines} -- \"${{1//\\\\/}}\"; }}"
    quoted = " ".join(name.replace(" ", "\\\\ ") for name in names)
    fish = " ".join(map(shlex.quote, names))
    return {"bash": function, "zsh": f"({quoted})", "fish": fish, "preamble": {"bash": body}}
