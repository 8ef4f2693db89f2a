"""An engine on toy models for the tests of the Lab, and the sampler and schedules that only they need."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

from conftest import ToyModel, toy

from webui.core.request import Request
from webui.engine.engine import Engine
from webui.engine.jobs import Finished
from webui.settings import Settings

WAIT = 60


@contextmanager
def laboratory(registry, folder, on_call=lambda sigma: None, public=False, one_at_a_time=False, **changes):
    """An engine that runs, with its pictures in folder/outputs; `engine.opened` lists the toy models it opened.

    changes  of what was found of the models
    """
    found = {name: replace(toy(name), **changes) for name in ("toy", "other")}
    host = "0.0.0.0" if public else "127.0.0.1"
    settings = Settings(root=folder, outputs=folder / "outputs", model="toy", host=host, one_at_a_time=one_at_a_time)
    opened = []

    def open_model(one, device):
        opened.append(ToyModel(one, lambda sigma: on_call(sigma)))
        return opened[-1]

    engine = Engine(registry, settings, open_model, lambda path: found)
    engine.opened = opened
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def done(engine, task):
    """Run a task to its end and return (info, parts)."""
    job = engine.submit_task(task)
    outcome = job.wait(WAIT)
    assert isinstance(outcome, Finished), outcome
    return outcome.info, job.snapshot().parts


def drawn(engine, **fields):
    """The pixels of one picture, asked for alone."""
    job = engine.submit(Request(**fields))
    assert isinstance(job.wait(WAIT), Finished), job.outcome
    return job.pictures[0].path
