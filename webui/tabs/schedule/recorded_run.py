"""A finished run, loaded from its picture: the sigmas that really ran, drawn like any other list."""

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

from .curves import Curve, curve, places_of
from .guidance_marks import guidance_note, guided_curve

LONGEST = 20_000  # sigmas of a run that are drawn
MAX_SIGMA = 1e6
MOST_CALLS = 10**9  # more than any run has


@dataclass(frozen=True)
class RecordedRun:
    """The run that a picture records: request, sigmas, network calls a picture, and the model's name."""

    request: Request
    sigmas: tuple[float, ...]
    nfe: float
    model: str

    @property
    def name(self) -> str:
        """The run in a few words."""
        return f"Run: {self.request.sampler}, {self.request.schedule}, {len(self.sigmas) - 1} steps"

    def preview_run(self, engine: Engine) -> RunPreview:
        """What the same settings would run here and now. Raises RequestError."""
        names = ("model", "schedule", "steps", "sampler", "options", "schedule_options")
        fields = {name: getattr(self.request, name) for name in names}
        if self.request.has_input:
            fields |= dict(strength=self.request.strength, strength_as=self.request.strength_as)
        return preview_run(engine, fields)

    def curves(self, engine: Engine) -> list[Curve]:
        """Its curve, and the mark of the levels that were guided.

        A run that the same settings would make again stands where they would draw it: behind what img2img left out.
        """
        own = curve(self.name, self.sigmas)
        try:
            made = self.preview_run(engine)
            if made.run.sigmas == self.sigmas and not made.run.own_grid:
                own = replace(own, places=places_of(made.whole.sigmas, self.sigmas))
        except RequestError:
            pass  # `loaded_note` tells why
        return [own, *guided_curve(self.request, own.places, list(enumerate(self.sigmas[:-1])), self.name)]


def load(path: Path) -> RecordedRun:
    """The run of a PNG of ours. Raises RequestError where it carries none that can be read."""
    carried = read_picture(path)
    if carried.record is None:
        raise MetadataError("The picture was made by another program, and does not say at which sigmas it ran.")
    return read_run(carried.record)


def read_run(record: Record) -> RecordedRun:
    """A run from a picture's record, which comes from outside. Raises RequestError."""
    if not 2 <= len(record.sigmas) <= LONGEST or not all(0 <= sigma < MAX_SIGMA for sigma in record.sigmas):
        raise MetadataError("The picture's settings are damaged: they have no list of sigmas.")
    calls = record.nfe if 0 <= record.nfe < MOST_CALLS else 0
    return RecordedRun(record.single_request(), record.sigmas, calls, record.model.name)


def loaded_note(engine: Engine, loaded: RecordedRun) -> str:
    """What ran, and whether the same settings would run the same list here and now."""
    calls = f"{loaded.nfe:g} network calls" if loaded.nfe else "network calls not recorded"
    ran = f"{loaded.name} on {loaded.model or 'an unnamed model'}: {calls}."
    guidance = guidance_note(loaded.request, loaded.sigmas[:-1], len(loaded.sigmas) - 1)
    return note(f"{ran} {guidance} {_now(engine, loaded)}")


def _now(engine: Engine, loaded: RecordedRun) -> str:
    try:
        made = loaded.preview_run(engine)
    except RequestError as error:
        return f"It cannot be run again here: {error}"
    if made.run.own_grid:
        return "Its sampler made these steps itself."
    return (
        "The same settings run the same list here."
        if made.run.sigmas == loaded.sigmas
        else _differs(made.run.sigmas, loaded.sigmas)
    )


def _differs(now: Sequence[float], then: Sequence[float]) -> str:
    if len(now) != len(then):
        steps = f"{len(now) - 1} steps, not {len(then) - 1}"
        return f"The same settings would now run {steps}: a plugin or the model has changed."
    most = max(abs(a - b) / max(a, b) for a, b in zip(now, then, strict=True) if max(a, b) > 0)
    sigmas = f"sigmas that differ by up to {100 * most:.2g} %"
    return f"The same settings would now run {sigmas}: a plugin or the model has changed."
