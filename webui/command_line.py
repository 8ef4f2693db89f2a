"""The command line: a command and its flags, read before anything is installed. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from .settings import (
    devices,
    existing_folder,
    index_url,
    login,
    logins,
    network,
    output_folder,
    port_number,
    root_path,
    worker_count,
)

DEVICES = ("auto", "cuda", "mps", "cpu")
BACKENDS = ("auto", "torch", "openvino", "compile", "cuda-graph")
DTYPES = ("auto", "float32", "bfloat16", "float16")
SHELLS = ("bash", "zsh", "fish")
OFFLOADS = ("auto", "none", "text", "layers")
BACKEND_HELP = "what computes the network; auto measures once what is fastest here (default %(default)s)"
DTYPE_HELP = "its number format; auto takes none that shows in pictures (default %(default)s)"
OFFLOAD_HELP = (
    "what waits in host memory for its turn on the GPU: text encoders, or every layer, which is slower; auto takes "
    "what there is GPU memory for (default %(default)s)"
)
DEVICES_HELP = "devices to compute on, a process each, such as cuda:0,cuda:1 or cpu,cpu; in place of --device"
WORKERS_HELP = "so many processes on --device, in place of one thread"
RAY_HELP = "compute on the machines of this Ray cluster, such as auto or 10.0.0.1:6379; see docs/several-devices.md"
ONE_HELP = "draw pictures one by one: slower, but a batch is then equal to single pictures, bit for bit"
FOLDER_HELP = "also load the plugins in this folder; may be repeated"
PROXY_HELP = "address or network of a reverse proxy whose X-Forwarded headers count; may be repeated"
NAME_HELP = "host name that the page is also served under, such as draw.example.org; may be repeated"
USAGE = """python launch.py [flags]
       python launch.py draw PROMPT [flags]              draw pictures without the page
       python launch.py info FILE... [--json]            show what pictures carry
       python launch.py check FILE... [--json]           check a plugin as its author's tests would
       python launch.py calibrate [flags]                fit a sampler to a model: fewer calls for the same picture
       python launch.py replay FILE... [flags]           draw pictures again and compare them
       python launch.py account NAME --auth-file FILE    an account of a shared page
       python launch.py completion SHELL                 a command for a shell that completes names and flags
       python launch.py test [pytest flags]
       python launch.py COMMAND --help"""


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """(the flags, with the command's name as `command`; the arguments that the command reads itself).

    The flags of `draw` are derived from the fields of a request, which need packages: `webui.draw_command` reads them.
    """
    command, *rest = arguments or [""]
    if command in ("draw", "test"):
        epilog = "The rest goes to pytest." if command == "test" else None
        flags = _parser(command, "", add_help=command == "test", epilog=epilog)
        return flags.parse_known_args(rest)
    known = parsers()
    if command in known:
        return known[command]().parse_args(rest), []
    return _page_flags(arguments), []


def parsers() -> dict[str, Callable[[], argparse.ArgumentParser]]:
    """What makes the parser of each command but `draw` and `test`."""
    return {
        "info": _info_flags,
        "check": _check_flags,
        "calibrate": _calibrate_flags,
        "replay": _replay_flags,
        "account": _account_flags,
        "completion": _completion_flags,
    }


def page_parser() -> argparse.ArgumentParser:
    """The parser of the page's flags, which is used where no command is named."""
    flags = argparse.ArgumentParser(
        usage=USAGE,
        description="Open Sigmalab in a browser, or run one of its commands. The first start installs what is needed.",
        allow_abbrev=False,
    )
    page = flags.add_argument_group("the page").add_argument
    page("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is all (default %(default)s)")
    page("--port", type=port_number, default=7860, help="port, or the next free one (default %(default)s)")
    page("--share", action="store_true", help="also make a public link through Gradio's tunnel")
    page("--auth", type=login, metavar="USER:PASSWORD", help="login; a page that others can reach gets one anyway")
    page("--auth-file", type=Path, metavar="FILE", help="accounts, each with its own pictures, in place of --auth")
    page("--trusted-proxy", type=network, metavar="ADDRESS", action="append", default=[], help=PROXY_HELP)
    page("--public-name", metavar="HOST", action="append", default=[], help=NAME_HELP)
    page("--root-path", type=root_path, metavar="PATH", help="where a proxy serves the page, such as /draw")
    page("--log", type=Path, metavar="FILE", help="also write a log of jobs and problems to this file, as JSON lines")
    page("--metrics-port", type=port_number, metavar="PORT", help="answer 127.0.0.1:PORT/metrics for Prometheus")
    page("--no-browser", action="store_true", help="do not open a browser window")
    api = flags.add_argument_group("the APIs of other programs").add_argument
    api(
        "--api",
        action="store_true",
        help="answer A1111's API, /sdapi/v1, and OpenAI's images, /v1; /docs describes them",
    )
    api("--mcp", action="store_true", help="answer agents, by the Model Context Protocol, under /mcp")
    text = "logins that these APIs ask for, beside the page's own"
    api("--api-auth", type=logins, metavar="USER:PASSWORD,...", default=[], help=text)
    api("--api-fit", action="store_true", help="draw the nearest size that the model makes, where another is asked for")
    work = flags.add_argument_group("the work")
    work.add_argument("--model", metavar="NAME", help="model in weights/ to open first (default: the embedded one)")
    add_work(work)
    work.add_argument(
        "--outputs", type=output_folder, metavar="DIR", help="where pictures are saved (default: outputs/)"
    )
    work.add_argument("--clear-cache", action="store_true", help="empty cache/ before the start")
    text = "allow {a|b} and __file__ in prompts on a shared page, too"
    work.add_argument("--wildcards", action="store_true", help=text)
    plugins = flags.add_argument_group("plugins")
    plugins.add_argument("--plugins", action="store_true", help="list the samplers and schedules found, and end")
    plugins.add_argument("--json", action="store_true", help="with --plugins: list them as JSON")
    add_plugins(plugins)
    plugins.add_argument("--reload", action="store_true", help="load plugins anew whenever one of their files changes")
    flags.set_defaults(command="page")
    add_environment(flags.add_argument_group("the environment"))
    return flags


def _page_flags(arguments: list[str]) -> argparse.Namespace:
    flags = page_parser()
    parsed = flags.parse_args(arguments)
    if parsed.auth and parsed.auth_file:
        flags.error("--auth and --auth-file exclude one another")
    if parsed.api_auth and parsed.auth_file:
        flags.error("--api-auth and --auth-file exclude one another: the APIs ask for the accounts")
    if parsed.api_auth and not (parsed.api or parsed.mcp):
        flags.error("--api-auth goes with --api and --mcp")
    if parsed.api_fit and not parsed.api:
        flags.error("--api-fit goes with --api")
    if parsed.json and not parsed.plugins:
        flags.error("--json goes with --plugins, and with the commands draw, info and check")
    if parsed.plugins:
        parsed.command = "plugins"
    return parsed


def _account_flags() -> argparse.ArgumentParser:
    text = "Add an account to a file for --auth-file, or change its password, which is asked for."
    flags = _parser("account", text)
    flags.add_argument("account", metavar="NAME", help="1 to 32 of a-z, 0-9, - and _")
    flags.add_argument("--auth-file", type=Path, required=True, metavar="FILE", help="the file, made if there is none")
    flags.add_argument("--admin", action=argparse.BooleanOptionalAction, help="may see and stop the jobs of all")
    flags.add_argument("--remove", action="store_true", help="take the account out; its pictures stay")
    return flags


def _replay_flags() -> argparse.ArgumentParser:
    text = "Make pictures again from what they carry; the exit status is 0 if all are equal, bit for bit."
    flags = _parser("replay", text)
    flags.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a picture made by Sigmalab")
    flags.add_argument("--one-at-a-time", action="store_true", help="draw each picture alone, whatever its batch was")
    flags.add_argument("--input", type=Path, metavar="FILE", help="input picture of img2img (default: the kept one)")
    flags.add_argument("--mask", type=Path, metavar="FILE", help="mask of its inpainting (default: the kept one)")
    flags.add_argument(
        "--outputs", type=output_folder, metavar="DIR", help="where inputs were kept (default: outputs/)"
    )
    add_plugins(flags)
    return flags


def _info_flags() -> argparse.ArgumentParser:
    text = (
        "Show the settings that pictures carry, of this program or another, `name: value` a line, then what of them "
        "has no counterpart here. The exit status is 0 if all could be read, else 1."
    )
    flags = _parser("info", text)
    flags.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a PNG, JPEG or WebP")
    flags.add_argument("--json", action="store_true", help="print a JSON list with an object for each file")
    add_plugins(flags)
    return flags


def _check_flags() -> argparse.ArgumentParser:
    text = (
        "Run every check of samplers.testing on the samplers, schedules and guidances of a plugin. Its code runs. The "
        "exit status is 0 if all passed, 1 if one did not, 2 for a file that is no plugin."
    )
    flags = _parser("check", text)
    flags.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a .py file, or a folder with __init__.py")
    flags.add_argument("--json", action="store_true", help="print a JSON list with an object for each plugin")
    text = "the samplers are for distilled networks, which answer with the end of the flow, such as LCM"
    flags.add_argument("--distilled", action="store_true", help=text)
    return flags


def _calibrate_flags() -> argparse.ArgumentParser:
    text = (
        "Fit the coefficients of a sampler to a model, for some numbers of network calls, and keep those that beat the "
        "other samplers on prompts that were not fitted. The exit status is 0 if one was kept, 1 if none was, 2 for a "
        "wrong command line."
    )
    flags = _parser("calibrate", text)
    flags.add_argument("--model", metavar="NAME", default="", help="model in weights/ (default: the embedded one)")
    flags.add_argument("--sampler", metavar="NAME", default="Calibrated", help="sampler to fit (default %(default)s)")
    flags.add_argument(
        "--calls", type=int, nargs="+", metavar="N", default=[4, 6, 8, 10], help="network calls a picture"
    )
    flags.add_argument("--guidance", type=float, metavar="X", help="guidance scale (default: the model's)")
    flags.add_argument("--size", type=int, nargs=2, metavar=("W", "H"), default=[0, 0], help="(default: the model's)")
    text = "schedules to fit on; the best counts (default %(default)s)"
    flags.add_argument("--schedule", nargs="+", metavar="NAME", default=["Karras"], help=text)
    text = "a text file with a prompt a line; half of them are fitted and half tested (default: the model's own)"
    flags.add_argument("--prompts", type=Path, metavar="FILE", help=text)
    flags.add_argument(
        "--pictures", type=int, metavar="N", default=16, help="to fit, and to test (default %(default)s)"
    )
    flags.add_argument("--again", action="store_true", help="also what has been kept before")
    flags.add_argument("--json", action="store_true", help="print a JSON list with an object for each number of calls")
    flags.add_argument("--outputs", type=output_folder, metavar="DIR", help="where they are kept (default: outputs/)")
    add_work(flags)
    add_plugins(flags)
    return flags


def _completion_flags() -> argparse.ArgumentParser:
    text = (
        "Print a script that gives a shell a command, sigmalab, for launch.py, and completes its commands, flags, and "
        "the names of samplers, schedules and models as they are now."
    )
    flags = _parser("completion", text)
    flags.add_argument("shell", choices=SHELLS, help="the shell")
    add_plugins(flags)
    return flags


def _parser(command: str, description: str, **more) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog=f"launch.py {command}", allow_abbrev=False, description=description or None, **more
    )
    flags.set_defaults(command=command)
    add_environment(flags)
    return flags


def add_work(group) -> None:
    """Add the flags that say how pictures are computed."""
    group.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default %(default)s)")
    several = group.add_mutually_exclusive_group()
    several.add_argument("--devices", type=devices, metavar="LIST", help=DEVICES_HELP)
    several.add_argument("--workers", type=worker_count, metavar="N", help=WORKERS_HELP)
    group.add_argument("--ray", metavar="ADDRESS", help=RAY_HELP)
    group.add_argument("--backend", choices=BACKENDS, default="auto", help=BACKEND_HELP)
    group.add_argument("--dtype", choices=DTYPES, default="auto", help=DTYPE_HELP)
    group.add_argument("--offload", choices=OFFLOADS, default="auto", help=OFFLOAD_HELP)
    group.add_argument("--compile", action="store_true", help="the same as --backend compile")
    group.add_argument("--no-cache", action="store_true", help="keep and use no conversions in cache/")
    group.add_argument("--one-at-a-time", action="store_true", help=ONE_HELP)


def add_plugins(group) -> None:
    """Add the flags that say which plugins are loaded."""
    group.add_argument(
        "--plugins-dir", type=existing_folder, metavar="DIR", action="append", default=[], help=FOLDER_HELP
    )
    group.add_argument("--no-plugins", action="store_true", help="load the built-in plugins alone")


def add_environment(group) -> None:
    """Add the flags of the set-up."""
    group.add_argument("--no-setup", action="store_true", help="install nothing: use this Python as it is")
    text = "package index to install torch from, for CPU-only or ROCm builds"
    group.add_argument("--torch-index", type=index_url, metavar="URL", help=text)
