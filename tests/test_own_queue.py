"""A tab's own queue: jobs behind one another, in an order that its owner changes, each shown in its turn."""

import asyncio
from contextlib import aclosing
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import ToyModel, toy, until
from test_queue import clock, put, queue  # noqa: F401  (fixtures)

from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.events import Finished
from webui.gradio_ext.lazy_tab import LazyBlocks
from webui.settings import Settings
from webui.tabs.form import job_events
from webui.tabs.form.job_events import stop_job
from webui.tabs.form.own_queue import MOST_OWN, build_own_queue, check_own_room
from webui.tabs.form.page_context import Page
from webui.tabs.form.result_panel import add_to_strip
from webui.tabs.form.workbench import build_workbench

TOKEN, MODE = "a-token-of-a-browser", "txt2img"


@pytest.fixture
def bench(registry, tmp_path, gate):
    """txt2img on a model that waits at the gate."""
    settings = Settings(root=tmp_path, outputs=tmp_path / "outputs", weights=tmp_path, model="toy")
    engine = Engine(registry, settings, lambda info, device: ToyModel(toy(), gate), lambda folder: {"toy": toy()})
    engine.start()
    with LazyBlocks():
        page = Page(engine, gr.State(TOKEN), {MODE: gr.BrowserState()}, gr.HTML(), gr.Number(0))
        built = build_workbench(page, "txt2img")
        own = build_own_queue(page, MODE)
    yield SimpleNamespace(page=page, own=own, built=built, events=built.events, form=built.form, engine=engine)
    gate.open()
    engine.close()


def submit(bench, *prompts):
    owner = bench.page.owner(TOKEN, MODE)
    return [bench.engine.submit(Request(prompt=each, steps=2, seed=7), owner) for each in prompts]


def test_a_job_changes_places_with_the_owners_other_ones_only(queue):  # noqa: F811
    jobs = [put(queue, "a") for _ in range(4)]
    jobs[1].owner = "another"
    queue.move(jobs[2], earlier=True)
    assert queue.waiting == (jobs[2], jobs[1], jobs[0], jobs[3])
    queue.move(jobs[0], earlier=False)
    assert queue.waiting == (jobs[2], jobs[1], jobs[3], jobs[0])
    assert [job.turn for job in queue.waiting] == [1, 2, 3, 4]
    assert [job.snapshot().position for job in queue.waiting] == [0, 1, 2, 3]
    for job in (jobs[2], jobs[1]):
        queue.move(job, earlier=True)
    assert queue.waiting == (jobs[2], jobs[1], jobs[3], jobs[0])
    assert queue.jobs_of("me") == (jobs[2], jobs[3], jobs[0]) and queue.jobs_of("") == ()


def test_the_list_changes_waiting_jobs_of_the_tab_alone(bench, gate):
    running, first, second = submit(bench, "a", "b", "c")
    gate.arrived()
    foreign = bench.engine.submit(Request(prompt="d"), "someone/txt2img")
    assert bench.page.jobs(TOKEN, MODE) == (running, first, second)
    for order, job in (("up", second), ("cancel", foreign), ("cancel", running), ("away", first)):
        html = bench.own.change(TOKEN, order, job.id)
    assert bench.page.jobs(TOKEN, MODE) == (running, second, first)
    assert not running.stopping and not foreign.stopping
    assert html.index("<strong>c</strong>") < html.index("<strong>b</strong>") and "<strong>a</strong>" not in html
    # Somebody else has a turn between them.
    assert "1 ahead" in html and "3 ahead" in html
    html = bench.own.change(TOKEN, "cancel", second.id)
    assert bench.page.jobs(TOKEN, MODE) == (running, first) and second.state == "stopped"
    assert "<strong>b</strong>" in html and "<strong>c</strong>" not in html


def test_stop_ends_what_runs_and_leaves_what_waits(bench, gate):
    running, waiting = submit(bench, "a", "b")
    gate.arrived()
    stop_job(bench.page, TOKEN, MODE)
    gate.open()
    assert isinstance(waiting.wait(60), Finished) and running.state == "stopped"


def test_a_reloaded_page_shows_one_job_after_another(bench, gate):
    jobs = submit(bench, "a", "b", "c")
    gate.arrived()
    bench.own.change(TOKEN, "cancel", jobs[1].id)

    async def follow():
        gate.open()
        return [each async for each in bench.events.resume(TOKEN)]

    updates = [each for each in asyncio.run(follow()) if each.get("__type__") is None]
    assert [type(job.outcome) is Finished for job in jobs] == [True, False, True]
    result, start = bench.built.result, bench.events.buttons.start
    said = [each[result.message] for each in updates if result.message in each]
    # The one that was cancelled while it waited says nothing.
    assert sum("One picture in" in text for text in said) >= 2 and not any("Stopped" in text for text in said)
    # The seed of a queued job does not overwrite what was typed since.
    assert sum(bench.form.fields["seed"] in each for each in updates) == 1
    labels = [each[start]["value"] for each in updates if start in each]
    assert labels[0] == "Add to queue" and labels[-1] == "Generate"
    assert updates[-1][bench.events.queue.box] == "" if bench.events.queue.box in updates[-1] else True
    strip = add_to_strip(result, bench.page.ended_jobs(TOKEN, MODE), [("older.png", 1)])[result.visit]
    assert len(strip) == 3 and strip[-1] == ("older.png", 1) and strip[0][0] != strip[1][0]


def test_what_waits_for_a_page_that_has_gone_is_given_up(bench, gate):
    running, waiting = submit(bench, "a", "b")
    gate.arrived()

    async def look_once():
        async with aclosing(bench.events.resume(TOKEN)) as updates:
            await anext(updates)

    # Once for who submitted them, and once for the page that came and went.
    asyncio.run(look_once())
    for job in (running, waiting):
        assert not job.should_stop(0.0)
        bench.engine.abandon(job)
        assert job.should_stop(0.0)
    until(lambda: not bench.page.watching[running.owner])


def test_a_tab_has_only_so_many():
    check_own_room([None] * (MOST_OWN - 1))
    with pytest.raises(RequestError, match=f"{MOST_OWN} jobs of this tab run or wait"):
        check_own_room([None] * MOST_OWN)


def test_a_list_that_changed_is_sent_while_a_run_has_no_news(bench, gate, monkeypatch):
    """Else a list that was sent before it, and comes after it, would stay."""
    monkeypatch.setattr(job_events, "LOOK", 0.0)
    box = bench.events.queue.box
    submit(bench, "a")
    gate.arrived()

    async def told():
        updates = bench.events.resume(TOKEN)
        for _ in range(20):
            await anext(updates)
        submit(bench, "b")
        found = [await anext(updates) for _ in range(20)]
        await updates.aclose()
        return [each[box] for each in found if box in each]

    (changed,) = asyncio.run(told())
    assert "<strong>b</strong>" in changed
