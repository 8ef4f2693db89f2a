"""The settings of the program, and the types of the flags that they come from. Standard library only."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .environment import StartError

PORTS_TRIED = 100
MAX_WORKERS = 64
CACHE = "cache"  # folder beside outputs/


@dataclass(frozen=True)
class Settings:
    """Everything that `webui.app.serve` needs to know.

    auth            (user, password) that the page asks for; None only on a private page
    model           name of the model to open first; None is the default one
    devices         where to compute, a worker process each; () is one thread on `device`
    ray             address of a Ray cluster whose machines compute, "" for none; `devices` then says how many workers,
                    () for all GPUs of the cluster, or for one worker a machine where it has none
    backend, dtype  what computes the network of the steps, and in which number format; "auto" measures. The default
                    is torch, so that programs and tests draw what they always drew
    offload         what waits in host memory for its turn on the GPU, see `weights.offload`
    background      whether a conversion may be made behind the pictures
    cache           folder of conversions and measurements; None keeps neither
    one_at_a_time   draw the pictures of a request one by one, so that each equals itself drawn alone, bit for bit
    auth_file       the file of accounts, see `webui.core.accounts`; None for one login or none
    log             file that everything logged is written to, as JSON lines
    metrics_port    port of http://127.0.0.1:port/metrics for Prometheus; 0 for none
    trusted_proxies  addresses and networks of reverse proxies whose X-Forwarded headers count
    public_names    host names that the page is served under besides its addresses
    root_path       path or address of the page behind a proxy, such as "/draw"
    api             answer the APIs of other programs, too
    api_auth        (user, password) pairs that these ask for, beside the page's login
    api_fit         draw the nearest size that the model makes, where another one is asked for through them
    wildcards       whether prompts on a shared page may have random choices and wildcards
    mcp             answer the Model Context Protocol under /mcp
    plugin_folders  the user's own plugin folders; empty when only built-in plugins are wanted
    reload          load plugins anew whenever one of their files changes
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
    devices: tuple[str, ...] = ()
    ray: str = ""
    backend: str = "torch"
    dtype: str = "auto"
    offload: str = "auto"
    background: bool = True
    cache: Path | None = None
    plugin_folders: tuple[Path, ...] = ()
    plugin_packages: bool = True
    outputs: Path = Path("outputs")
    weights: Path = Path("weights")
    open_browser: bool = True
    one_at_a_time: bool = False
    api: bool = False
    api_auth: tuple[tuple[str, str], ...] = ()
    api_fit: bool = False
    wildcards: bool = False
    mcp: bool = False
    reload: bool = False

    @property
    def public(self) -> bool:
        """Whether anyone but this machine's users can reach the page."""
        return self.share or bool(self.trusted_proxies or self.public_names) or not is_loopback(self.host)

    @property
    def has_processes(self) -> bool:
        """Whether other processes compute, here or on other machines."""
        return bool(self.devices or self.ray)

    def outputs_of(self, account: str) -> Path:
        """The folder of an account's pictures; "" is everybody on a page without accounts."""
        return self.outputs / "users" / account if account else self.outputs


def settings_without_page(flags: argparse.Namespace, root: Path) -> Settings:
    """The settings of a command that works without a page: no host, no port."""
    return Settings(
        root=root,
        background=False,
        **_of_all_commands(vars(flags), root),
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
        **_of_all_commands(vars(flags), root),
        open_browser=not flags.no_browser,
        api=flags.api,
        api_auth=tuple(flags.api_auth),
        api_fit=flags.api_fit,
        wildcards=flags.wildcards,
        mcp=flags.mcp,
        reload=flags.reload,
    )
    if settings.public and settings.auth is None and settings.auth_file is None:
        return replace(settings, auth=("sigmalab", secrets.token_urlsafe(12)))
    return settings


def _of_all_commands(given: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The settings that do not concern the page; torch where a command has no flags for that. Raises StartError."""
    backend = given.get("backend", "torch")
    if given.get("compile"):
        if backend not in ("auto", "compile"):
            raise StartError(f"--compile is --backend compile, and --backend {backend} is given as well")
        backend = "compile"
    cache = None if given.get("no_cache") else root / CACHE
    device, workers = given.get("device", "auto"), given.get("workers")
    if given.get("ray") and given.get("devices"):
        raise StartError("--ray and --devices exclude one another; --workers N takes so many workers of the cluster")
    return dict(
        device=device,
        devices=given.get("devices") or ((device,) * workers if workers else ()),
        ray=given.get("ray") or "",
        backend=backend,
        dtype=given.get("dtype", "auto"),
        offload=given.get("offload", "auto"),
        cache=cache,
        one_at_a_time=given.get("one_at_a_time", False),
        plugin_folders=() if given["no_plugins"] else tuple(given["plugins_dir"]),
        plugin_packages=not given["no_plugins"],
        outputs=given.get("outputs") or root / "outputs",
        weights=root / "weights",
    )


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


def devices(text: str) -> tuple[str, ...]:
    """Argument type: devices with commas between, such as cuda:0,cuda:1."""
    named = tuple(each.strip() for each in text.split(","))
    for each in named:
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", each):
            raise argparse.ArgumentTypeError(f"{each!r} is no device; allowed are cpu, mps, cuda, cuda:0, cuda:1, ...")
    return named


def worker_count(text: str) -> int:
    """Argument type: a number of workers."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers; allowed is 1 to {MAX_WORKERS}")
    return int(text)


def login(text: str) -> tuple[str, str]:
    """Argument type: a user and a password."""
    user, _, password = text.partition(":")
    if not user or not password:
        raise argparse.ArgumentTypeError("it has to be USER:PASSWORD, neither of them empty")
    return user, password


def logins(text: str) -> list[tuple[str, str]]:
    """Argument type: users and their passwords, with commas between."""
    return [login(each.strip()) for each in text.split(",")]


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
