"""Tasks have the engine's guarantees: one at a time, stopped, abandoned and found like any request, failures told."""

import threading
from dataclasses import dataclass, field

import pytest
from conftest import until
from labs import WAIT, laboratory

from samplers.sampler import Stopped
from webui.core.request import Request, RequestError
from webui.engine.events import Failed, Finished, PartialResult, StoppedEarly, news
from webui.engine.queue_room import MAX_WAITING


@dataclass(eq=False)
class Work:
    """A task that tells two parts, and between them waits to be let on or stopped."""

    model: str = ""
    error: BaseException | None = None
    began: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    context: object = None

    def run(self, context):
        self.context = context
        context.tell(PartialResult("first"))
        self.began.set()
        until(lambda: self.go.is_set() or context.should_stop(), WAIT)
        if context.should_stop():
            raise Stopped("stopped")
        if self.error:
            raise self.error
        context.tell(PartialResult("second"))
        return dict(stopped=False, answer=42)


@pytest.fixture
def engine(registry, tmp_path):
    with laboratory(registry, tmp_path) as running:
        yield running


def test_a_task_waits_for_its_turn_and_runs_alone(registry, tmp_path, gate):
    with laboratory(registry, tmp_path, gate) as engine:
        picture = engine.submit(Request(prompt="x", steps=2))
        gate.arrived(1)
        work = Work()
        job = engine.submit_task(work, "me")
        later = engine.submit(Request(prompt="y", steps=2))
        assert (job.snapshot().position, later.snapshot().position) == (1, 2) and not work.began.is_set()
        gate.open()
        assert isinstance(picture.wait(WAIT), Finished)
        assert work.began.wait(WAIT) and later.state == "waiting"
        assert engine.find("me") is job
        work.go.set()
        assert job.wait(WAIT).info == dict(stopped=False, answer=42)
        assert isinstance(later.wait(WAIT), Finished)


def test_parts_are_kept_for_whoever_looks_later(engine):
    work = Work()
    job = engine.submit_task(work)
    assert work.began.wait(WAIT)
    early = job.snapshot()
    work.go.set()
    assert job.wait(WAIT)
    assert early.parts == ("first",) and job.snapshot().parts == ("first", "second")
    assert [event.value for event in news(early, job.snapshot()) if isinstance(event, PartialResult)] == ["second"]
    assert [event.value for event in job.events() if isinstance(event, PartialResult)] == ["first", "second"]


def test_stop_ends_a_task_and_keeps_its_parts(engine):
    work = Work()
    job = engine.submit_task(work, "me")
    assert work.began.wait(WAIT)
    engine.stop(job)
    assert isinstance(job.wait(WAIT), StoppedEarly) and job.outcome.info == {"stopped": True}
    assert job.snapshot().parts == ("first",) and job.state == "stopped"


def test_a_waiting_task_is_stopped_at_once(engine):
    first, second = Work(), Work()
    engine.submit_task(first, "me")
    assert first.began.wait(WAIT)
    waiting = engine.submit_task(second, "me")
    engine.stop(waiting)
    assert isinstance(waiting.wait(WAIT), StoppedEarly) and not second.began.is_set()
    first.go.set()


def test_a_task_that_nobody_owns_stops_when_it_is_abandoned(engine):
    work = Work()
    job = engine.submit_task(work)
    assert work.began.wait(WAIT)
    engine.abandon(job)
    assert isinstance(job.wait(WAIT), StoppedEarly)


def test_the_end_of_the_engine_ends_a_task(engine):
    work = Work()
    job = engine.submit_task(work, "me")
    assert work.began.wait(WAIT)
    engine.close()
    assert isinstance(job.outcome, StoppedEarly)


@pytest.mark.parametrize(
    "error, said",
    [
        (RuntimeError("half way"), "The run failed: RuntimeError: half way"),
        (RequestError("what is allowed"), "What is allowed."),
        (MemoryError(), "Out of memory"),
        (SystemExit(3), "SystemExit"),
    ],
)
def test_a_task_that_fails_says_so_and_the_engine_goes_on(engine, error, said):
    work = Work(error=error)
    work.go.set()
    job = engine.submit_task(work)
    assert isinstance(job.wait(WAIT), Failed) and said in job.outcome.message
    assert job.snapshot().parts == ("first",)
    assert isinstance(engine.submit(Request(prompt="x", steps=1)).wait(WAIT), Finished)


def test_a_task_gets_the_model_that_it_names_or_none(engine):
    for model in ("", "other"):
        work = Work(model)
        work.go.set()
        assert isinstance(engine.submit_task(work).wait(WAIT), Finished)
        assert (work.context.model.name if model else work.context.model) == (model or None)
    other, toy = (engine.identity_of(Request(model=name)) for name in ("other", "toy"))
    assert other.digest == "0123456789" and toy is None
    assert engine.status == "other on cpu, ready"
    with pytest.raises(RequestError, match="Unknown model 'nowhere'; known are toy, other"):
        engine.submit_task(Work("nowhere"))


def test_a_full_queue_refuses_tasks_too(engine):
    first = Work()
    engine.submit_task(first, "me")
    assert first.began.wait(WAIT)
    waiting = [engine.submit_task(Work(), "me") for _ in range(MAX_WAITING)]
    with pytest.raises(RequestError, match="queue is full"):
        engine.submit_task(Work(), "me")
    for job in waiting:
        engine.stop(job)
    first.go.set()
