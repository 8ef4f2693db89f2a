"""`python launch.py draw PROMPT`: draw pictures without the page. The flags are the fields of a request."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weights.opening import check_model, open_model

from .command_line import add_environment, add_plugins, add_work
from .core.fields import RequestField, fields_of
from .core.links import read_value
from .core.plugin_fields import PLUGIN_FIELDS
from .core.request import Request, RequestError, read
from .core.storage import move
from .engine.engine import Engine
from .engine.events import Failed, Picture, StoppedEarly
from .engine.jobs import DrawJob
from .engine.plugin_reloading import find_plugins
from .progress_bar import events_beside_bar
from .settings import Settings, output_folder, settings_without_page

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
EPILOG = f"""exit status: {DONE}, all pictures are finished; {FAILED}, the run failed, and what was finished is kept;
{REFUSED}, the request or the command line is wrong, and nothing was drawn; {INTERRUPTED}, Ctrl+C."""
SHORT = {"count": "-n", "negative_prompt": "-N"}


def draw_pictures(arguments: Sequence[str], root: Path) -> int:
    """Draw what a command line asks for, print the files of the pictures and return the exit status."""
    flags = draw_flags().parse_args(arguments)
    settings = settings_without_page(flags, root)
    try:
        request = request_of(flags)
        job, engine = _submit(request, settings)
    except RequestError as error:
        return _tell_problem(flags, str(error), REFUSED)
    try:
        return _watch(flags, job)
    except KeyboardInterrupt:
        engine.stop(job)
        job.wait(timeout=10)
        return _tell_problem(flags, "stopped by Ctrl+C", INTERRUPTED)
    finally:
        engine.close()


def draw_flags(schema: type[Request] = Request) -> argparse.ArgumentParser:
    """The command line of `draw`, a flag for each field of a request."""
    flags = argparse.ArgumentParser(
        prog="launch.py draw",
        allow_abbrev=False,
        description="Draw pictures from words, or with --image from a picture and words. The files are printed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("prompt", help="what the pictures show")
    request = flags.add_argument_group("the request")
    for field in _flag_fields(schema):
        _add_field(request, field)
    output = flags.add_argument_group("the output")
    output.add_argument(
        "-o", "--output", type=output_folder, metavar="DIR", help="put the pictures here (default: outputs/, by day)"
    )
    output.add_argument("--json", action="store_true", help="print one JSON object: pictures, info, error")
    output.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    add_work(flags.add_argument_group("the work"))
    add_plugins(flags.add_argument_group("plugins"))
    add_environment(flags.add_argument_group("the environment"))
    return flags


def request_of(flags: argparse.Namespace, schema: type[Request] = Request) -> Request:
    """The request of a command line. Raises RequestError."""
    given: dict[str, Any] = {"prompt": flags.prompt}
    for field in _flag_fields(schema):
        value = getattr(flags, field.name)
        if value is None:
            continue
        if field.kind is dict:
            given[field.name] = _options(field, value)
        elif isinstance(value, str):
            # What cannot be read goes on as it is, to be refused with the sentence of the field.
            parsed = field.parse(value)
            given[field.name] = value if parsed is None else parsed
        else:
            given[field.name] = value
    return read({"mode": "img2img" if "image" in given else "txt2img", **given}, schema)


def _flag_fields(schema: type[Request]) -> Iterator[RequestField]:
    return (field for name, field in fields_of(schema).items() if name not in ("mode", "prompt"))


def _add_field(group: Any, field: RequestField) -> None:
    names = [SHORT[field.name]] if field.name in SHORT else []
    flag = "--" + (field.name.removesuffix("s") if field.kind is dict else field.name).replace("_", "-")
    how: dict[str, Any] = dict(dest=field.name, help=_help(field).replace("%", "%%"))
    if field.kind is dict:
        how |= dict(metavar="NAME=VALUE", action="append")
    elif field.kind is bool:
        how |= dict(action=argparse.BooleanOptionalAction, default=None)
    elif field.is_upload:
        how |= dict(type=Path, metavar="FILE")
    else:
        metavars = {int: "N", float: "X", tuple: "L,T,R,B" if field.item is int else "NAMES"}
        how |= dict(metavar=metavars.get(field.kind, "NAME"))
    group.add_argument(*names, flag, **how)


def _help(field: RequestField) -> str:
    if field.kind is dict:
        noun = next((each.noun for each in PLUGIN_FIELDS if each.options == field.name), "request")
        return f"an option of the {noun}; may be repeated"
    name = field.setting.label or field.title
    # The longest text is of no interest before somebody writes one.
    allowed = "" if field.kind is str and not field.values else f": {field.allowed}"
    shown = "" if field.default in (None, "", ()) else f" (default {field.default})"
    return f"{name}{allowed}{shown}"


def _options(field: RequestField, pairs: Sequence[str]) -> dict[str, Any]:
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise RequestError(f"{field.title}: {pair!r} is no NAME=VALUE, such as eta=0.5.")
        options[name.strip()] = read_value(value)
    return options


def _submit(request: Request, settings: Settings) -> tuple[DrawJob, Engine]:
    registry = find_plugins(settings)
    engine = Engine(registry, settings, open_model, check_model=check_model)
    job = engine.submit(request, previews=False)
    engine.start()
    return job, engine


def _watch(flags: argparse.Namespace, job: DrawJob) -> int:
    """Show how far a job is until it has ended; the exit status."""
    files: list[dict[str, Any]] = []
    for event in events_beside_bar(job, flags.quiet or flags.json):
        if isinstance(event, Picture):
            path = move(event.path, flags.output) if flags.output else event.path
            files.append(dict(path=str(path), seed=event.seed))
            if not flags.json:
                print(path, flush=True)
    outcome = job.outcome
    if isinstance(outcome, Failed):
        return _tell_problem(flags, outcome.message, FAILED, files)
    if isinstance(outcome, StoppedEarly):
        return _tell_problem(flags, "The run was stopped.", FAILED, files)
    if flags.json:
        print(json.dumps(dict(pictures=files, info=job.snapshot().info), indent=2))
    return DONE


def _tell_problem(flags: argparse.Namespace, text: str, status: int, files: Sequence[dict[str, Any]] = ()) -> int:
    if flags.json:
        print(json.dumps(dict(pictures=list(files), error=text), indent=2))
    print(f"sigmalab: {text}", file=sys.stderr)
    return status
