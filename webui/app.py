"""Opening the page: plugins, engine, server, and a tidy end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO, cast

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from samplers.registry import Registry
from weights.opening import check_model

from .core.accounts import EVERYBODY, Account, Accounts, AccountsError
from .core.images import MAX_BYTES
from .core.storage import remove_leftovers
from .engine.engine import Engine
from .engine.jobs import Job
from .engine.plugin_reloading import PluginWatch, find_plugins
from .environment import StartError
from .gradio_ext.api_login import Logins
from .gradio_ext.connections import LimitedText, watch_connections
from .gradio_ext.guard import Guard
from .gradio_ext.page_cache import PageCache
from .gradio_ext.page_meta import PageMeta
from .gradio_ext.proxies import TrustedProxies
from .gradio_ext.sessions import lighten_sessions
from .gradio_ext.signed_in import current_user
from .gradio_ext.theme import ASSETS, head, theme
from .gradio_ext.tunnel import open_tunnel
from .job_log import log_ended, log_to
from .page import build_page
from .settings import Settings
from .tabs.history.history_store import OwnHistory

MAX_THREADS = 300  # each call of the API that waits has one
LOOPBACK = ("127.0.0.0/8", "::1/128")
if TYPE_CHECKING:
    from .metrics import Metrics

COMPRESSED_FROM, COMPRESSION = 4096, 4  # bytes of an answer from which it is compressed, and zlib's level


def serve(settings: Settings) -> None:
    """Run the page until Ctrl+C."""
    with redirect_stderr(cast(TextIO, LimitedText(sys.stderr))):
        _serve(settings)


def _serve(settings: Settings) -> None:
    remove_leftovers(settings.outputs)
    registry = find_plugins(settings)
    accounts = _accounts(settings)
    for account in accounts.all() if accounts else ():
        remove_leftovers(settings.outputs_of(account))
    account_of = partial(signed_in_account, accounts)
    history = OwnHistory(lambda: settings.outputs_of(account_of().name))
    metrics = _metrics(settings)

    def on_ended(job: Job) -> None:
        log_ended(job)
        if metrics:
            metrics.ended(job)

    engine = Engine(
        registry,
        settings,
        check_model=check_model,
        on_saved=history.add,
        account_of=account_of,
        on_ended=on_ended,
    )
    _tell_outside(settings, engine, metrics)
    page = build_page(engine, history)
    ended = _until_told()
    url = open_page(page, engine, accounts)
    try:
        _announce(registry, url)
        # After the server is up: importing diffusers holds Python's lock while a page is being served.
        engine.warm_up()
        if settings.reload:
            PluginWatch(settings, engine.queue, engine.reload_plugins).start()
        if settings.share:
            link, reason = open_tunnel(page)
            print(
                f"  Public link    {link}" if link else f"  No public link: {reason}\n  The local page goes on.",
                flush=True,
            )
        if settings.open_browser:
            webbrowser.open(page.share_url or url)
        ended.wait()
    except KeyboardInterrupt:
        pass
    finally:
        print("\nSigmalab ends; finished pictures are kept.", flush=True)
        engine.close()
        page.close(verbose=False)
        _leave_hung_engine()


def open_page(page: gr.Blocks, engine: Engine, accounts: Accounts | None = None) -> str:
    """Start the engine and the server, and return the page's address; both go on until they are closed.

    accounts  whose passwords the page asks for, in place of the login of the settings
    """
    engine.start()
    return serve_page(page, engine, accounts)


def serve_page(page: gr.Blocks, engine: Engine, accounts: Accounts | None = None) -> str:
    """Start the server alone, and return the page's address."""
    settings = engine.settings
    # Uvicorn would trust every program on this machine as a proxy; `TrustedProxies` decides that.
    os.environ["FORWARDED_ALLOW_IPS"] = ""
    _, url, _ = page.launch(
        **launch_options(settings, accounts, engine.queue.seconds_until_room, _apis(engine)),
        server_name=settings.host,
        server_port=settings.port,
    )
    watch_connections(page.server)
    lighten_sessions(page)
    # 0.0.0.0 means every address of this machine and is not one that a browser can open.
    return url.replace("//0.0.0.0", "//localhost").replace("//[::]", "//localhost")


def _accounts(settings: Settings) -> Accounts | None:
    try:
        return Accounts(settings.auth_file) if settings.auth_file else None
    except AccountsError as error:
        raise StartError(f"--auth-file: {error}") from error


def _apis(engine: Engine) -> Any:
    if not (engine.settings.api or engine.settings.mcp):
        return None
    # Not needed by anybody else.
    from .api.rest_server import rest_app

    return rest_app(engine)


def _metrics(settings: Settings) -> Metrics | None:
    if not settings.metrics_port:
        return None
    # Not needed by anybody else, and slow to import.
    from .metrics import Metrics

    return Metrics()


def _tell_outside(settings: Settings, engine: Engine, metrics: Metrics | None) -> None:
    """Begin to write the log and to answer Prometheus, if they are wanted."""
    try:
        if settings.log:
            log_to(settings.log)
    except OSError as error:
        raise StartError(f"--log: {settings.log} cannot be written: {error.strerror}") from error
    try:
        if metrics:
            metrics.serve(engine.queue, settings.metrics_port)
    except OSError as error:
        raise StartError(f"--metrics-port {settings.metrics_port} cannot be used: {error.strerror}") from error


def signed_in_account(accounts: Accounts | None) -> Account:
    """The account of whoever caused what runs in this thread. Raises RequestError where it was removed."""
    return accounts.named(current_user()) if accounts else EVERYBODY


def launch_options(
    settings: Settings,
    accounts: Accounts | None = None,
    seconds_until_room: Callable[[], float | None] = lambda: None,
    apis: Any = None,
) -> dict[str, Any]:
    """How the page is served: hardened, offline, in its own looks.

    apis  the app of the APIs of other programs, None without
    """

    async def login(name: str, password: str) -> bool:
        # In a thread: the check is slow on purpose, and others are served meanwhile.
        return accounts is not None and await asyncio.to_thread(accounts.verify, name, password)

    # Gradio's tunnel is a proxy on this machine.
    proxies = Middleware(TrustedProxies, proxies=(*settings.trusted_proxies, *(LOOPBACK if settings.share else ())))
    guard = Middleware(
        Guard,
        hosts=(settings.host, *settings.public_names),
        share=settings.share,
        seconds_until_room=seconds_until_room,
        apis=apis,
        logins=Logins(
            (*settings.api_auth, *((settings.auth,) if settings.auth else ())), accounts.verify if accounts else None
        ),
    )
    # Not for event streams and pictures, which this middleware leaves alone by their content type.
    compression = Middleware(GZipMiddleware, minimum_size=COMPRESSED_FROM, compresslevel=COMPRESSION)
    return dict(
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        share=False,
        auth=login if accounts else settings.auth,
        auth_message="Sigmalab",
        # FastAPI's own pages would list the endpoints to anybody.
        app_kwargs={
            "middleware": [proxies, guard, Middleware(PageCache), compression, Middleware(PageMeta)],
            "openapi_url": None,
        },
        root_path=settings.root_path,
        max_threads=MAX_THREADS,
        theme=theme(),
        css_paths=[ASSETS / "style.css"],
        head=head(),
        footer_links=["api"],
        max_file_size=MAX_BYTES,
        state_session_capacity=200,
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        show_error=False,
        # Without Gradio's look at the page, which gives up after three seconds: a slow machine could not start at all.
        _frontend=False,
    )


def _announce(registry: Registry, url: str) -> None:
    print(f"\nSigmalab is open at {url}", flush=True)
    kinds = ("samplers", "schedules", "guidances")
    print(f"  Plugins        {', '.join(f'{len(getattr(registry, kind))} {kind}' for kind in kinds)}")
    for broken in registry.broken:
        print(f"  Not loaded     {broken.source}: {broken.reason}")
    print("  Ctrl+C ends it.", flush=True)


def _leave_hung_engine() -> None:
    # A network call may take longer than anyone waits for. Python's own end would pull the floor from under the thread
    # that is in it, and the process would abort.
    if any(thread.name == "sigmalab-engine" for thread in threading.enumerate()):
        sys.stdout.flush()
        os._exit(0)


def _until_told() -> threading.Event:
    """An event that SIGTERM sets, so that a service manager ends the program as tidily as Ctrl+C does."""
    ended = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
    return ended
