"""Load a finished run from its picture, to draw the sigmas that it ran through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from webui.core.picture_metadata import read_picture
from webui.core.record import MetadataError, Record
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.run_preview import RunPreview, preview_run
from webui.tabs.form.describe import note

from .curves import Curve, curve, guided_curve, places_of, second_curve
from .run_summary import guidance_note

MAX_SIGMAS = 20_000
MAX_SIGMA = 1e6
MAX_CALLS = 10**9


@dataclass(frozen=True)
class RecordedRun:
    """The run that a picture records: its request, sigmas, network calls a picture, and the model's name.

    second  the sigmas of the second pass, if it had one
    """

    request: Request
    sigmas: tuple[float, ...]
    nfe: float
    model: str
    second: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """The run in a few words."""
        return f"Run: {self.request.sampler}, {self.request.schedule}, {len(self.sigmas) - 1} steps"

    def preview_run(self, engine: Engine) -> RunPreview:
        """The run of the same settings with today's plugins and models. Raises RequestError."""
        names = ("model", "schedule", "steps", "sampler", "options", "schedule_options")
        fields = {name: getattr(self.request, name) for name in names}
        if self.request.has_input:
            fields |= dict(strength=self.request.strength, strength_as=self.request.strength_as)
        return preview_run(engine, fields)

    def curves(self, engine: Engine) -> list[Curve]:
        """Its curve, and the mark of the guided levels.

        Where the same settings still give the same sigmas, the curve of img2img starts behind the part left out.
        """
        own = curve(self.name, self.sigmas)
        try:
            preview = self.preview_run(engine)
            if preview.run.sigmas == self.sigmas and not preview.run.own_grid:
                own = replace(own, places=places_of(preview.whole.sigmas, self.sigmas))
        except RequestError:
            pass  # `loaded_note` shows the error
        name = f"Its second pass: {self.request.hires_sampler}, {len(self.second) - 1} steps"
        second = [second_curve(name, self.sigmas, self.second)] if self.second else []
        return [own, *second, *guided_curve(self.request, own.places, list(enumerate(self.sigmas[:-1])), self.name)]


def load(path: Path) -> RecordedRun:
    """The run of a PNG of this program. Raises RequestError where it has none that can be read."""
    carried = read_picture(path)
    if carried.record is None:
        raise MetadataError("The picture was made by another program, and does not say at which sigmas it ran.")
    return read_run(carried.record)


def read_run(record: Record) -> RecordedRun:
    """A run from a picture's record, which anybody may have written. Raises RequestError."""
    second = record.later_passes[0].sigmas if record.later_passes else ()
    if not _is_list(record.sigmas) or (second and not _is_list(second)):
        raise MetadataError("The picture's settings are damaged: they have no list of sigmas.")
    calls = record.nfe if 0 <= record.nfe < MAX_CALLS else 0
    return RecordedRun(record.single_request(), record.sigmas, calls, record.model.name, second)


def _is_list(sigmas: Sequence[float]) -> bool:
    return 2 <= len(sigmas) <= MAX_SIGMAS and all(0 <= sigma < MAX_SIGMA for sigma in sigmas)


def loaded_note(engine: Engine, loaded: RecordedRun) -> str:
    """A note about the run, and whether the same settings still give the same sigmas."""
    calls = f"{loaded.nfe:g} network calls" if loaded.nfe else "network calls not recorded"
    ran = f"{loaded.name} on {loaded.model or 'an unnamed model'}: {calls}."
    guidance = guidance_note(loaded.request, loaded.sigmas[:-1], len(loaded.sigmas) - 1)
    return note(f"{ran} {guidance} {_now(engine, loaded)}")


def _now(engine: Engine, loaded: RecordedRun) -> str:
    try:
        preview = loaded.preview_run(engine)
    except RequestError as error:
        return f"It cannot be run again here: {error}"
    if preview.run.own_grid:
        return "Its sampler made these steps itself."
    if preview.run.sigmas == loaded.sigmas:
        return "The same settings run the same list here."
    return _difference(preview.run.sigmas, loaded.sigmas)


def _difference(now: Sequence[float], then: Sequence[float]) -> str:
    if len(now) != len(then):
        counts = f"{len(now) - 1} steps, not {len(then) - 1}"
        return f"The same settings would now run {counts}: a plugin or the model has changed."
    most = max(abs(a - b) / max(a, b) for a, b in zip(now, then, strict=True) if max(a, b) > 0)
    share = f"up to {100 * most:.2g} %"
    return f"The same settings would now run sigmas that differ by {share}: a plugin or the model has changed."
