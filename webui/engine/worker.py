"""One job from its model to its outcome."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from samplers.sampler import Stopped
from webui.core.request import RequestError
from weights.oom import out_of_memory

from .drawing import Drawing, info_of
from .errors import explain, free_memory
from .events import Failed, Finished, Outcome, Progress, StoppedEarly
from .job_context import JobContext
from .jobs import Job
from .opened_models import Models
from .run_environment import check_weights, threads

if TYPE_CHECKING:
    from webui.settings import Settings

log = logging.getLogger(__name__)


def carry_out(job: Job, desk: JobContext, models: Models, settings: Settings) -> Outcome:
    """Do a job; whatever happens becomes its outcome.

    desk  still without the model
    """
    try:
        if desk.should_stop():
            return StoppedEarly(info_of(job))
        model = _model_of(job, models, settings.device)
        with threads(job.conditions.threads):
            info = _do(job, replace(desk, model=model), models, settings.one_at_a_time)
        return StoppedEarly(info) if info["stopped"] else Finished(info)
    except Stopped:
        return StoppedEarly(info_of(job))
    except BaseException as error:
        log.warning("job %s failed", job.id, exc_info=not isinstance(error, RequestError))
        full = out_of_memory(error)
        message = explain(error, job.request, desk.public, models.info_of(job.model) if full else None)
    if full:
        # Only here is the exception gone, and with it the tensors that its traceback held.
        free_memory()
    return Failed(message)


def _model_of(job: Job, models: Models, device: str) -> Any:
    """The opened model of a job; None for a task without one."""
    if not job.model:
        return None
    model = models.open(
        job.model, job.conditions.device or device, lambda name: job.tell(Progress(text=f"loading {name}"))
    )
    check_weights(job.conditions, model.identity, job.model)
    return model


def _do(job: Job, desk: JobContext, models: Models, one_at_a_time: bool) -> dict[str, Any]:
    # An errand is over before anyone could read of it.
    quiet = desk.model is None or job.urgent
    with nullcontext() if quiet else models.drawing():
        return job.task.run(desk) if job.task else Drawing(job, desk, one_at_a_time).draw()
