"""What was measured of samplers on a model, and coefficients that fit one to it: JSON beside the model or the pictures.

    {"calibrations": [{"weights": "0123456789", "sampler": "built-in/calibrated/Calibrated", "version": "1",
      "guidance": 5.0, "width": 64, "height": 64, "schedule": "Karras", "sigmas": [14.6, ..., 0.0],
      "coefficients": {"steps": [[0.1, ...], ...]}, "error": 0.02, "best": {"name": "Euler, Karras", "error": 0.04}}],
     "schedules": [{"schedule": "built-in/fitted_schedule/Calibrated", "sampler": "Euler", ...}],
     "measured": [{"weights": "0123456789", "guidance": 5.0, "width": 64, "height": 64, "calls": 6,
      "errors": {"Euler, Karras": 0.04, ...}}]}

A calibration counts for exactly the weights, sampler, guidance, size and list of sigmas that it was made with; that of
a schedule, which has the same fields, for its number of steps in place of the sigmas. An error is the mean over
pictures of other prompts than the fitted ones of the root mean square of pixels, from 0 to 1.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from .storage import write_over

FILE = "calibrations.json"
MOST_BYTES = 4_000_000
SAME = 1e-6  # relative difference of sigmas that are the same list

log = logging.getLogger(__name__)


def _finite(value: JsonValue) -> JsonValue:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be finite")
    for each in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        _finite(each)
    return value


Text = Annotated[str, Field(max_length=300)]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Plain(_Part):
    """The best of the samplers without coefficients, and its error."""

    name: Text
    error: Positive


class _Fitted(_Part):
    """Coefficients of a plugin, what they were fitted to, and what they gain.

    weights  digest of the network's weights; `version` is that of the plugin
    error    of runs with them
    best     the best sampler without coefficients at as many calls
    """

    weights: Text
    version: Text
    guidance: Annotated[float, Field(ge=0, le=1000)]
    width: Annotated[int, Field(ge=8, le=16_384)]
    height: Annotated[int, Field(ge=8, le=16_384)]
    sigmas: Annotated[tuple[Positive, ...], Field(min_length=2, max_length=1001)]
    coefficients: Annotated[dict[str, JsonValue], AfterValidator(_finite)]
    error: Positive
    best: Plain

    @property
    def steps(self) -> int:
        """The steps of its runs."""
        return len(self.sigmas) - 1

    @property
    def plugin(self) -> str:
        """The id of the plugin that was fitted."""
        raise NotImplementedError

    @property
    def schedule_name(self) -> str:
        """The name of the schedule of its runs."""
        raise NotImplementedError

    def fits(self, wanted: RunKey) -> bool:
        """Whether it was made for a run of this kind, on whatever list of sigmas."""
        return wanted == RunKey.of(self)


class Calibration(_Fitted):
    """Coefficients of a sampler, by its id, and the name of the schedule that the sigmas come from."""

    sampler: Text
    schedule: Text

    @property
    def plugin(self) -> str:
        """The sampler's id."""
        return self.sampler

    @property
    def name(self) -> str:
        """The sampler's name."""
        return self.sampler.rpartition("/")[2]

    @property
    def schedule_name(self) -> str:
        """The schedule's name."""
        return self.schedule

    def walks(self, sigmas: Sequence[float]) -> bool:
        """Whether it was made for this list of sigmas."""
        return len(sigmas) == len(self.sigmas) and all(
            math.isclose(a, b, rel_tol=SAME) for a, b in zip(sigmas, self.sigmas, strict=True)
        )


class ScheduleCalibration(_Fitted):
    """Coefficients of a schedule, by its id, the sigmas that it makes of them, and the sampler that tested them."""

    schedule: Text
    sampler: Text

    @property
    def plugin(self) -> str:
        """The schedule's id."""
        return self.schedule

    @property
    def schedule_name(self) -> str:
        """The schedule's name."""
        return self.schedule.rpartition("/")[2]


class MeasuredErrors(_Part):
    """The errors of samplers without coefficients on a model, by "sampler, schedule", at a number of network calls."""

    weights: Text
    guidance: Annotated[float, Field(ge=0, le=1000)]
    width: Annotated[int, Field(ge=8, le=16_384)]
    height: Annotated[int, Field(ge=8, le=16_384)]
    calls: Annotated[int, Field(ge=1, le=1000)]
    errors: Annotated[dict[Text, Positive], Field(min_length=1, max_length=1000)]

    @property
    def best(self) -> Plain:
        """The best of them."""
        name = min(self.errors, key=lambda each: self.errors[each])
        return Plain(name=name, error=self.errors[name])

    @property
    def condition(self) -> tuple[str, float, int, int]:
        """What they were measured on: weights, guidance, width and height."""
        return self.weights, self.guidance, self.width, self.height


class RunKey(_Part):
    """What has to be the same for a calibration to count, beside the list of sigmas."""

    weights: str
    plugin: str
    version: str
    guidance: float
    width: int
    height: int

    @classmethod
    def of(cls, calibration: _Fitted) -> RunKey:
        """That of a calibration."""
        return cls(**{name: getattr(calibration, name) for name in cls.model_fields})


class CalibrationFile(_Part):
    """What such a file holds."""

    calibrations: Annotated[tuple[Calibration, ...], Field(max_length=2_000)] = ()
    schedules: Annotated[tuple[ScheduleCalibration, ...], Field(max_length=2_000)] = ()
    measured: Annotated[tuple[MeasuredErrors, ...], Field(max_length=2_000)] = ()


def read_calibrations(file: Path) -> CalibrationFile:
    """What is in a file; nothing if there is no file. Raises ValueError that says what is wrong."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"{file.name} is larger than {MOST_BYTES // 1_000_000} MB")
        return CalibrationFile.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return CalibrationFile()
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{file.name} cannot be used: {place + ': ' if place else ''}{problem['msg']}") from None


def all_calibrations(folders: Iterable[Path]) -> CalibrationFile:
    """What the files of these folders have, the first folder's first; a file that cannot be used is left out."""
    found = []
    for folder in folders:
        try:
            found.append(read_calibrations(folder / FILE))
        except (OSError, ValueError) as error:
            log.warning("%s", error)
    return CalibrationFile(
        calibrations=tuple(each for one in found for each in one.calibrations),
        schedules=tuple(each for one in found for each in one.schedules),
        measured=tuple(each for one in found for each in one.measured),
    )


def keep_calibrations(folder: Path, new: CalibrationFile) -> Path:
    """Add to the file in a folder, in place of what was made and measured of the same runs. Raises OSError."""
    file, before = folder / FILE, all_calibrations([folder])
    again = {(each.condition, each.calls) for each in new.measured}
    same = {(RunKey.of(each), each.steps) for each in new.schedules}
    kept = CalibrationFile(
        calibrations=(
            *new.calibrations,
            *(old for old in before.calibrations if not any(_same(old, each) for each in new.calibrations)),
        ),
        schedules=(
            *new.schedules,
            *(old for old in before.schedules if (RunKey.of(old), old.steps) not in same),
        ),
        measured=(*new.measured, *(old for old in before.measured if (old.condition, old.calls) not in again)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_over(file, kept.model_dump_json().encode())
    return file


def _same(old: Calibration, new: Calibration) -> bool:
    return old.fits(RunKey.of(new)) and old.walks(new.sigmas)
