"""The whole page: header, tabs, and what happens when a browser opens it."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import gradio as gr

from webui.tabs.form.page_context import Page

from .api.endpoints import build_endpoints
from .core.menus import sampler_groups
from .engine.engine import Engine
from .engine.jobs import Job
from .gradio_ext.gradio_events import LONG, QUIET, Updates, browser_store, gather, signal
from .gradio_ext.lazy_tab import LazyBlocks, LazyContent, reach
from .gradio_ext.theme import ASSETS
from .tabs.form.link_events import connect_link, mode_of, open_form, open_outputs
from .tabs.form.result_panel import chosen_of
from .tabs.form.vary import connect_vary
from .tabs.form.workbench import Workbench, build_workbench
from .tabs.history.history_store import History, OwnHistory
from .tabs.history.history_tab import build_history
from .tabs.img2img import build_img2img
from .tabs.info.info_tab import build_info
from .tabs.lab.axes_view import STORE as AXES
from .tabs.lab.lab_tab import MODES as LAB_MODES
from .tabs.lab.lab_tab import build_lab
from .tabs.plugins import build_plugins, tab_title
from .tabs.queue import build_queue
from .tabs.schedule.schedule_tab import build_schedule
from .tabs.upscale import UpscaleTab, build_upscale
from .templates import render

TOKEN = re.compile(r"[\w-]{16,64}")
SOON, RARELY = 1.0, 10.0  # seconds between looks at the engine's status: until it is ready, and after
CACHE_AGE = 24 * 3600  # seconds that served copies of pictures are kept; outputs/ keeps the pictures themselves


def build_page(engine: Engine, history: History | OwnHistory | None = None) -> gr.Blocks:
    """The page for an engine; nothing is started and no model is loaded.

    history  of the engine's pictures, the one that hears of new ones; by default one that finds them itself
    """
    with LazyBlocks(title="Sigmalab", analytics_enabled=False, delete_cache=(3600, CACHE_AGE)) as blocks:
        # Clients wait in the engine's queue, where each has its own progress; Gradio's own would only hide them there.
        # Before there is anything on the page, since Gradio makes its routes anew with each call.
        blocks.queue(api_open=False, max_size=64, default_concurrency_limit=64)
        kept = {name: browser_store(name) for name in ("txt2img", "img2img", "lab", AXES, "schedule")}
        plugins = signal(engine.reloads)
        status, header = _build_header(engine, plugins)
        page = Page(engine, token=gr.State(""), kept=kept, status=status, plugins=plugins, header=header)
        with gr.Tabs(elem_classes="tabs", overflow_behavior="wrap") as tabs:
            with gr.Tab("txt2img", id="txt2img"):
                words = build_workbench(page, "txt2img")
            with gr.Tab("img2img", id="img2img") as tab:
                drawing = LazyContent(tab)
                own = _following(page, drawing)
                with drawing.content():
                    picture, picture_files = build_img2img(own, drawing)
            benches = (words, picture)
            with gr.Tab("Upscale", id="upscale") as tab:
                enlarging = LazyContent(tab)
                with enlarging.content():
                    upscale = build_upscale(page, enlarging, picture)
            with gr.Tab("Schedule", id="schedule") as tab:
                content = LazyContent(tab)
                own = replace(page, plugins=content.follow_count(plugins), header=None)
                with content.content():
                    build_schedule(own, blocks, benches, tabs)
            with gr.Tab("Lab", id="lab") as tab:
                lab = LazyContent(tab)
                own = replace(_following(page, lab), header=None)
                with lab.content():
                    build_lab(own, blocks, benches, tabs)
            with gr.Tab("PNG Info", id="info") as tab:
                info = build_info(page, LazyContent(tab), benches, tabs)
            if has_history(engine):
                with gr.Tab("History", id="history") as tab:
                    content, kept_pictures = LazyContent(tab), history or OwnHistory(lambda: engine.outputs)
                    with content.content():
                        build_history(page, kept_pictures, content, info, benches, tabs)
            with gr.Tab(tab_title(engine.registry), id="plugins") as tab:
                content = LazyContent(tab)
                own = replace(page, plugins=content.follow_count(plugins))
                with content.content():
                    build_plugins(own, plugins)
            plugins.change(lambda: gr.Tab(label=tab_title(engine.registry)), None, tab, **QUIET)
            if engine.settings.auth_file:
                with gr.Tab("Queue", id="queue", visible=False) as tab:
                    build_queue(page, tab)
                blocks.load(lambda: gr.Tab(visible=engine.account.admin), None, tab, **QUIET)
        for bench in benches:
            with _inside(bench.content):
                _connect_result_actions(bench, picture, upscale, tabs)
                connect_vary(page, bench)
                connect_link(page, bench)
        left = {drawing: (picture.events, picture_files), enlarging: (upscale.events, upscale.files)}
        for content, jobs in left.items():
            with content.content():
                for each in jobs:
                    blocks.load(each.resume, page.token, each.outputs, concurrency_limit=None, **LONG)
        modes = {content: [each.mode for each in jobs] for content, jobs in left.items()}
        _connect_opening(page, blocks, benches, {**modes, lab: LAB_MODES}, tabs)
        _connect_plugins(page, blocks)
        build_endpoints(engine)
    return blocks


def _following(page: Page, content: LazyContent) -> Page:
    """The page as a form in the content of a tab listens to it."""
    return replace(page, status=content.follow(page.status), plugins=content.follow_count(page.plugins))


def _inside(content: LazyContent | None) -> AbstractContextManager[None]:
    """Where events of a tab's components are made; None for a tab that is always there."""
    return content.content() if content else nullcontext()


def has_history(engine: Engine) -> bool:
    """Whether there is a History: on a shared page without accounts it would show everybody's pictures to everybody."""
    return bool(engine.settings.auth_file or not engine.settings.public)


def status_html(status: str) -> str:
    """The engine's status as a pill in the header."""
    kind = "ready" if "ready" in status else "loading" if status.startswith(("loading", "starting")) else "other"
    return render("header", "status", status, kind)


def _headings(engine: Engine) -> str:
    """The style that puts headings above the groups of the menus of samplers."""
    place, found = 0, []
    for title, names in sampler_groups(engine.registry.samplers).items():
        found.append((place, title))
        place += len(names)
    return render("header", "headings", found)


def _build_header(engine: Engine, plugins: gr.Number) -> tuple[gr.HTML, gr.Row]:
    """The name, the engine's status and the place of the menus of models; the last two are returned."""
    logo = (ASSETS / "icon.svg").read_text("utf-8")
    with gr.Row(elem_classes="masthead"):
        gr.HTML(render("header", "name", logo))
        if engine.settings.auth or engine.settings.auth_file:
            gr.HTML(render("header", "sign_out"), elem_classes="sign-out")
        with gr.Row(elem_classes="pill") as pill:
            status = gr.HTML(status_html(engine.status), elem_id="status")
        gr.HTML(render("header", "theme"))
        gr.HTML(render("header", "settings", has_history(engine)))
        headings = gr.HTML(_headings(engine), elem_classes="headings")
    plugins.change(lambda: _headings(engine), None, headings, **QUIET)
    timer = gr.Timer(SOON)

    def look() -> tuple[str, Any]:
        now = engine.status
        return status_html(now), gr.Timer(RARELY if "ready" in now and "converting" not in now else SOON)

    timer.tick(look, None, [status, timer], **QUIET)
    return status, pill


def _connect_result_actions(bench: Workbench, target: Workbench, upscale: UpscaleTab, tabs: gr.Tabs) -> None:
    """Send the chosen picture and its prompts to img2img or to Upscale; take the seed of the chosen picture."""
    names = ("prompt", "negative_prompt")
    result, fields = bench.result, bench.form.fields

    seed, random_seed = fields["seed"], fields["random_seed"]
    image, prompts = target.form.fields["image"], [target.form.fields[name] for name in names]

    def send(made: list, chosen: int, *given: str) -> Updates:
        choice = chosen_of(made, chosen)
        if choice is None:
            return gr.skip()
        return {image: choice[0], **dict(zip(prompts, given, strict=True)), tabs: gr.Tabs(selected=target.mode)}

    def enlarge(made: list, chosen: int, prompt: str) -> Updates:
        choice = chosen_of(made, chosen)
        if choice is None:
            return gr.skip()
        return {upscale.image: choice[0], upscale.prompt: prompt, tabs: gr.Tabs(selected="upscale")}

    def reuse(made: list, chosen: int) -> Updates:
        choice = chosen_of(made, chosen)
        return {seed: choice[1], random_seed: False} if choice else gr.skip()

    picture = [result.made, result.chosen]
    words = [fields[name] for name in names]
    reach(target.content, result.send.click)(send, [*picture, *words], [image, *prompts, tabs], **QUIET)
    outputs = [upscale.image, upscale.prompt, tabs]
    reach(upscale.content, result.enlarge.click)(enlarge, [*picture, fields["prompt"]], outputs, **QUIET)
    result.reuse.click(reuse, picture, [seed, random_seed], **QUIET)


def _connect_opening(
    page: Page,
    blocks: gr.Blocks,
    benches: tuple[Workbench, ...],
    later: Mapping[LazyContent, Sequence[str]],
    tabs: gr.Tabs,
) -> None:
    """On opening or reloading: recognize the tab, fill the forms as they were, and follow what still runs.

    A link fills the form that it is for, and its tab comes to the front.

    later  the modes of the jobs that are followed by a tab's content, once it is there
    """
    known, link = gr.Textbox(visible=False, container=False), ["window.sigmalab.link()"]
    modes, (first, *_) = [bench.mode for bench in benches], benches

    def recognize(claims: str) -> tuple[str, str]:
        token = choose_token(page, claims, [first.mode, *chain.from_iterable(later.values())])
        return token, token

    claims = ["window.sigmalab.identify()"]
    opened = gather(blocks.load, recognize, None, [page.token, known], scripts=claims, **QUIET)
    remembered = opened.then(None, known, None, js="(token) => window.sigmalab.remember(token)", **QUIET)
    for bench in benches:
        with _inside(bench.content):
            fill = partial(open_form, page, bench)
            filled = gather(blocks.load, fill, page.kept[bench.mode], open_outputs(bench), scripts=link, **QUIET)
            if bench.content:
                bench.content.arrived(filled.then)
    remembered.then(first.events.resume, page.token, first.events.outputs, concurrency_limit=None, **LONG)

    def follow(token: str) -> Any:
        left = [content for content, modes in later.items() if any(page.job(token, mode) for mode in modes)]
        return {content.opened: 1 for content in left} or gr.skip()

    remembered.then(follow, page.token, [content.opened for content in later], **QUIET)

    def front(query: str) -> Any:
        mode = mode_of(query, modes)
        return gr.Tabs(selected=mode) if mode else gr.skip()

    gather(blocks.load, front, None, tabs, scripts=link, **QUIET)


def _connect_plugins(page: Page, blocks: gr.Blocks) -> None:
    """Have the page show plugins that were loaded anew: when it is opened, and with --reload soon after it."""

    def look(shown: float) -> Any:
        return page.engine.reloads if shown != page.engine.reloads else gr.skip()

    gather(blocks.load, look, page.plugins, page.plugins, **QUIET)
    if page.engine.settings.reload:
        gather(gr.Timer(SOON).tick, look, page.plugins, page.plugins, **QUIET)


def choose_token(page: Page, claims: str, modes: list[str]) -> str:
    """The token of a browser tab: its own; in a new tab, that of a closed one whose job still waits for it; else new.

    claims  what page.js found in the tab's and in the browser's storage, as JSON; anything odd counts as nothing
    """
    try:
        found = json.loads(claims)
        own, last = (str(found[name]) for name in ("tab", "browser"))
    except (ValueError, TypeError, KeyError):
        own = last = ""
    if TOKEN.fullmatch(own):
        return own
    if TOKEN.fullmatch(last) and any(_waits(page, last, mode) for mode in modes):
        return last
    return secrets.token_urlsafe(24)


def _waits(page: Page, token: str, mode: str) -> bool:
    job: Job | None = page.job(token, mode)
    # One that has ended waits for nobody: the tab that saw it end may be open still.
    return job is not None and job.outcome is None and not page.watching[job.owner]
