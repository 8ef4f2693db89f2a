"""Replay the trajectory of a finished picture from its metadata."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from webui.core.request import RequestError
from webui.engine.engine import Engine
from webui.engine.events import Event, Picture
from webui.engine.job_context import JobContext
from webui.engine.replay import Recipe, recipe
from webui.engine.replay_verdict import compare
from webui.engine.run_environment import RunEnvironment

from .trajectory import Trajectory, trajectory_of


@dataclass(frozen=True, eq=False)
class ReplayTrajectory:
    """The task that draws a picture's batch as it was drawn; its partial results are the Frames.

    The result is compared with the file and deleted, as in any replay.
    """

    file: Path
    recipe: Recipe
    trajectory: Trajectory

    @property
    def model(self) -> str:
        """The recorded model."""
        return self.trajectory.model

    @property
    def environment(self) -> RunEnvironment:
        """The recorded ones."""
        return self.recipe.environment

    def run(self, context: JobContext) -> dict[str, Any]:
        """Draw it; "comparison" in the info says whether the result equals the file."""
        pictures: list[Picture] = []

        def tell(event: Event) -> None:
            if isinstance(event, Picture):
                pictures.append(event)
            else:
                context.tell(event)

        with tempfile.TemporaryDirectory(prefix="sigmalab-replay-", ignore_cleanup_errors=True) as folder:
            info = self.trajectory.run(replace(context, outputs=Path(folder), tell=tell))
            if info["stopped"]:
                return info
            seed = self.recipe.resolved.request.seeds[self.recipe.index]
            return info | dict(seeds=[seed], comparison=self._comparison(pictures))

    def _comparison(self, pictures: Sequence[Picture]) -> str:
        made = pictures[self.recipe.index].path
        try:
            verdict = compare(self.file, made, self.recipe)
        except RequestError as error:
            return f"{self.file.name} cannot be compared: {error}"
        return f"compared with {self.file.name}, the final picture {'is ' if verdict.equal else ''}{verdict}"


def replay_trajectory(engine: Engine, file: Path) -> ReplayTrajectory:
    """The task for a file of ours. RequestError names the plugin, model, input picture or setting that is missing."""
    wanted = recipe(file, engine)
    return ReplayTrajectory(file, wanted, trajectory_of(wanted.resolved, wanted.environment, wanted.index))
