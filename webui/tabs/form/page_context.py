"""What every part of the page is built with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import gradio as gr

from samplers.registry import Registry
from webui.engine.engine import Engine
from webui.engine.jobs import Job
from weights.model_info import ModelInfo


@dataclass(frozen=True, eq=False)
class Page:
    """One built page, the same for all its visitors.

    token     the visitor's browser tab, a `gr.State`; it owns the jobs that this tab starts
    kept      where the browser keeps each form, by its mode, and the axes of a grid
    status    changes when a model has been opened
    plugins   how many times plugins had been loaded anew when the menus were filled
    header    where the menus of models stand; None has them in their forms
    watching  how many open pages follow a job, by the job's owner; only touched in the server's event loop
    """

    engine: Engine
    token: gr.State
    kept: Mapping[str, gr.BrowserState]
    status: gr.HTML | gr.Number
    plugins: gr.Number
    header: gr.Row | None = None
    watching: Counter[str] = field(default_factory=Counter)

    @property
    def registry(self) -> Registry:
        """The plugins."""
        return self.engine.registry

    @property
    def first_model(self) -> ModelInfo | None:
        """The model that a form begins with; None if there is none."""
        return next(iter(self.engine.models().values()), None)

    @contextmanager
    def model_place(self) -> Iterator[None]:
        """Build a form's menu of models where it stands."""
        if self.header is None:
            yield
            return
        # Gradio takes whatever a row is entered from for its parent.
        parent = self.header.parent
        with self.header:
            yield
        self.header.parent = parent

    def owner(self, token: str, mode: str) -> str:
        """Whom a job of this tab and mode belongs to: txt2img and img2img each have their own."""
        return f"{token}/{mode}" if token else ""

    def jobs(self, token: str, mode: str) -> tuple[Job, ...]:
        """The jobs of this tab and mode that run or wait, in their order."""
        account = self.engine.account.name
        return tuple(job for job in self.engine.queue.jobs_of(self.owner(token, mode)) if job.account == account)

    def ended_jobs(self, token: str, mode: str) -> tuple[Job, ...]:
        """The jobs of this tab and mode that ended and can still be found, the newest first."""
        owner, account = self.owner(token, mode), self.engine.account.name
        ended = reversed(self.engine.queue.finished)
        return tuple(job for job in ended if owner and job.owner == owner and job.account == account)

    def job(self, token: str, mode: str) -> Job | None:
        """The newest job of this tab and mode that can still be found."""
        return self.engine.find(self.owner(token, mode)) if token else None
