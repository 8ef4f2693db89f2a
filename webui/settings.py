"""The command line's flags as settings, before anything starts. Standard library only."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import os
import secrets
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from .environment import StartError

PORTS_TRIED = 100
DEVICES = ("auto", "cuda", "mps", "cpu")
ONE_HELP = "draw pictures one by one: slower, but a batch is then equal to single pictures, bit for bit"
FOLDER_HELP = "also load the plugins in this folder; may be repeated"
PROXY_HELP = "address or network of a reverse proxy whose X-Forwarded headers count; may be repeated"
NAME_HELP = "host name that the page is also served under, such as draw.example.org; may be repeated"


@dataclass(frozen=True)
class Settings:
    """Everything that `webui.app.serve` needs to know.

    auth            (user, password) that the page asks for; None only on a private page
    model           name of the model to open first; None is the default one
    compile         have torch.compile translate the network
    one_at_a_time   draw the pictures of a request one by one, so that each equals itself drawn alone, bit for bit
    auth_file       the file of accounts, see `webui.core.accounts`; None for one login or none
    log             file that everything logged is written to, as JSON lines
    metrics_port    port of http://127.0.0.1:port/metrics for Prometheus; 0 for none
    trusted_proxies  addresses and networks of reverse proxies whose X-Forwarded headers count
    public_names    host names that the page is served under besides its addresses
    root_path       path or address of the page behind a proxy, such as "/draw"
    plugin_folders  the user's own plugin folders; empty when only built-in plugins are wanted
    """

    root: Path
    host: str = "127.0.0.1"
    port: int = 7860
    share: bool = False
    auth: tuple[str, str] | None = None
    auth_file: Path | None = None
    log: Path | None = None
    metrics_port: int = 0
    trusted_proxies: tuple[str, ...] = ()
    public_names: tuple[str, ...] = ()
    root_path: str = ""
    model: str | None = None
    device: str = "auto"
    compile: bool = False
    plugin_folders: tuple[Path, ...] = ()
    plugin_packages: bool = True
    outputs: Path = Path("outputs")
    weights: Path = Path("weights")
    open_browser: bool = True
    one_at_a_time: bool = False

    @property
    def public(self) -> bool:
        """Whether anyone but this machine's users can reach the page."""
        return self.share or bool(self.trusted_proxies or self.public_names) or not is_loopback(self.host)

    def outputs_of(self, account: str) -> Path:
        """The folder of an account's pictures; "" is everybody on a page without accounts."""
        return self.outputs / "users" / account if account else self.outputs


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str] | None]:
    """Read the command line: the flags, and the arguments for pytest (None when the page is wanted)."""
    if arguments[:1] == ["test"]:
        tests = argparse.ArgumentParser(prog="launch.py test", allow_abbrev=False, epilog="The rest goes to pytest.")
        _add_environment(tests)
        return tests.parse_known_args(arguments[1:])
    if arguments[:1] == ["account"]:
        return _account_flags().parse_args(arguments[1:]), None
    if arguments[:1] == ["replay"]:
        return _replay_flags().parse_args(arguments[1:]), None
    flags = argparse.ArgumentParser(
        usage="python launch.py [flags]\n       python launch.py test [--no-setup] [--torch-index URL] [pytest flags]"
        "\n       python launch.py account NAME --auth-file FILE [--admin] [--remove]"
        "\n       python launch.py replay FILE... [--one-at-a-time] [--input FILE] [--mask FILE] [--outputs DIR]",
        description="Open Sigmalab in a browser, or run its tests. The first start installs what is needed.",
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
    work = flags.add_argument_group("the work").add_argument
    work("--model", metavar="NAME", help="model in weights/ to open first (default: the embedded one)")
    work("--device", choices=DEVICES, default="auto", help="where to compute (default %(default)s)")
    work("--compile", action="store_true", help="translate the network with torch.compile: slow to begin, then faster")
    work("--outputs", type=output_folder, metavar="DIR", help="where pictures are saved (default: outputs/)")
    work("--one-at-a-time", action="store_true", help=ONE_HELP)
    plugins = flags.add_argument_group("plugins").add_argument
    plugins("--plugins", action="store_true", help="list the samplers and schedules that were found, and end")
    plugins("--json", action="store_true", help="with --plugins: list them as JSON")
    plugins("--plugins-dir", type=existing_folder, metavar="DIR", action="append", default=[], help=FOLDER_HELP)
    plugins("--no-plugins", action="store_true", help="load the built-in plugins alone")
    flags.set_defaults(files=[], account=None)
    _add_environment(flags.add_argument_group("the environment"))
    parsed = flags.parse_args(arguments)
    if parsed.auth and parsed.auth_file:
        flags.error("--auth and --auth-file exclude one another")
    if parsed.json and not parsed.plugins:
        flags.error("--json goes with --plugins")
    return parsed, None


def _account_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="launch.py account",
        allow_abbrev=False,
        description="Add an account to a file for --auth-file, or change its password, which is asked for.",
    )
    flags.add_argument("account", metavar="NAME", help="1 to 32 of a-z, 0-9, - and _")
    flags.add_argument("--auth-file", type=Path, required=True, metavar="FILE", help="the file, made if there is none")
    flags.add_argument("--admin", action=argparse.BooleanOptionalAction, help="may see and stop the jobs of all")
    flags.add_argument("--remove", action="store_true", help="take the account out; its pictures stay")
    flags.set_defaults(files=[], plugins=False)
    _add_environment(flags)
    return flags


def _replay_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="launch.py replay",
        allow_abbrev=False,
        description="Make pictures again from what they carry; the exit status is 0 if all are equal, bit for bit.",
    )
    flags.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a picture made by Sigmalab")
    flags.add_argument("--one-at-a-time", action="store_true", help="draw each picture alone, whatever its batch was")
    flags.add_argument("--input", type=Path, metavar="FILE", help="input picture of img2img (default: the kept one)")
    flags.add_argument("--mask", type=Path, metavar="FILE", help="mask of its inpainting (default: the kept one)")
    flags.add_argument(
        "--outputs", type=output_folder, metavar="DIR", help="where inputs were kept (default: outputs/)"
    )
    flags.add_argument(
        "--plugins-dir", type=existing_folder, metavar="DIR", action="append", default=[], help=FOLDER_HELP
    )
    flags.add_argument("--no-plugins", action="store_true", help="load the built-in plugins alone")
    flags.set_defaults(plugins=False, account=None)
    _add_environment(flags)
    return flags


def replay_settings(flags: argparse.Namespace, root: Path) -> Settings:
    """The settings that a replay needs: no host, no port."""
    return Settings(
        root=root,
        plugin_folders=() if flags.no_plugins else tuple(flags.plugins_dir),
        plugin_packages=not flags.no_plugins,
        outputs=flags.outputs or root / "outputs",
        weights=root / "weights",
    )


def resolve(flags: argparse.Namespace, root: Path) -> Settings:
    """Turn parsed flags into settings: finds a free port, and generates the login that a public page needs.

    Raises StartError when the host or the port cannot be used.
    """
    settings = Settings(
        root=root,
        host=flags.host,
        port=free_port(flags.host, flags.port),
        share=flags.share,
        auth=flags.auth,
        auth_file=flags.auth_file,
        log=flags.log,
        metrics_port=flags.metrics_port or 0,
        trusted_proxies=tuple(flags.trusted_proxy),
        public_names=tuple(flags.public_name),
        root_path=flags.root_path or "",
        model=flags.model,
        device=flags.device,
        compile=flags.compile,
        plugin_folders=() if flags.no_plugins else tuple(flags.plugins_dir),
        plugin_packages=not flags.no_plugins,
        outputs=flags.outputs or root / "outputs",
        weights=root / "weights",
        open_browser=not flags.no_browser,
        one_at_a_time=flags.one_at_a_time,
    )
    if settings.public and settings.auth is None and settings.auth_file is None:
        return replace(settings, auth=("sigmalab", secrets.token_urlsafe(12)))
    return settings


def _add_environment(group) -> None:
    group.add_argument("--no-setup", action="store_true", help="install nothing: use this Python as it is")
    text = "package index to install torch from, for CPU-only or ROCm builds"
    group.add_argument("--torch-index", type=index_url, metavar="URL", help=text)


def is_loopback(host: str) -> bool:
    """Whether this address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def free_port(host: str, port: int) -> int:
    """The first port from `port` on that is free on this host. Raises StartError."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise StartError(f"--host {host} is unknown; allowed are addresses of this machine, 0.0.0.0 is all") from None
    last = min(port + PORTS_TRIED - 1, 65535)
    for candidate in range(port, last + 1):
        with socket.socket(family, kind) as probe:
            if os.name != "nt":
                # A port that a server left a moment ago is free; Windows would lend even one in use.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], candidate, *address[2:]))
                return candidate
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise StartError(f"--host {host} is no address of this machine; 0.0.0.0 is all") from None
                if error.errno == errno.EACCES and candidate < 1024:
                    raise StartError(f"--port {candidate} needs administrator rights; take 1024 to 65535") from None
    raise StartError(f"no port from {port} to {last} is free; choose another with --port")


def port_number(text: str) -> int:
    """Argument type: a port."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; allowed is a whole number from 1 to 65535")
    return int(text)


def login(text: str) -> tuple[str, str]:
    """Argument type: a user and a password."""
    user, _, password = text.partition(":")
    if not user or not password:
        raise argparse.ArgumentTypeError("it has to be USER:PASSWORD, neither of them empty")
    return user, password


def network(text: str) -> str:
    """Argument type: an IP address or a network of them."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no address; allowed are 10.0.0.1, 10.0.0.0/8 and ::1") from None


def root_path(text: str) -> str:
    """Argument type: a path or an address that a proxy serves the page under."""
    if not text.startswith(("/", "http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is no path; it begins with / or is a whole https:// address")
    return text.rstrip("/")


def existing_folder(text: str) -> Path:
    """Argument type: a folder that is there."""
    folder = Path(text).expanduser().resolve()
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder; name an existing one")
    return folder


def output_folder(text: str) -> Path:
    """Argument type: a folder, or a path where one can be made."""
    folder = Path(text).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a file; name a folder (it is made if it does not exist)")
    return folder


def index_url(text: str) -> str:
    """Argument type: the address of a package index."""
    if not text.startswith(("https://", "http://", "file://")):
        raise argparse.ArgumentTypeError(f"{text!r} is no index; allowed are https://, http:// and file:// URLs")
    return text
