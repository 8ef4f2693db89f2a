"""Calibrations: coefficients that fit a sampler to a model, kept as JSON beside the model's weights or the pictures.

    {"calibrations": [{"weights": "0123456789", "sampler": "built-in/calibrated/Calibrated", "version": "1",
      "guidance": 5.0, "width": 64, "height": 64, "schedule": "Karras", "sigmas": [14.6, ..., 0.0],
      "coefficients": {"steps": [[0.1, ...], ...]}, "error": 0.02, "best": {"name": "Euler, Karras", "error": 0.04}}]}

A calibration counts for exactly the weights, sampler, guidance, size and list of sigmas that it was made with.
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


class Calibration(_Part):
    """Coefficients, what they were fitted to, and what they gain.

    weights   digest of the network's weights; `sampler` is the id of the plugin, with its version
    schedule  the one that the sigmas come from
    error     the mean over held-out pictures of the root mean square of pixels, from 0 to 1
    best      the best sampler without coefficients at as many calls
    """

    weights: Text
    sampler: Text
    version: Text
    guidance: Annotated[float, Field(ge=0, le=1000)]
    width: Annotated[int, Field(ge=8, le=16_384)]
    height: Annotated[int, Field(ge=8, le=16_384)]
    schedule: Text
    sigmas: Annotated[tuple[Positive, ...], Field(min_length=2, max_length=1001)]
    coefficients: Annotated[dict[str, JsonValue], AfterValidator(_finite)]
    error: Positive
    best: Plain

    @property
    def steps(self) -> int:
        """The steps of its runs."""
        return len(self.sigmas) - 1

    def fits(self, wanted: RunKey) -> bool:
        """Whether it was made for a run of this kind, on whatever list of sigmas."""
        return wanted == RunKey.of(self)

    def walks(self, sigmas: Sequence[float]) -> bool:
        """Whether it was made for this list of sigmas."""
        return len(sigmas) == len(self.sigmas) and all(
            math.isclose(a, b, rel_tol=SAME) for a, b in zip(sigmas, self.sigmas, strict=True)
        )


class RunKey(_Part):
    """What has to be the same for a calibration to count, beside the list of sigmas."""

    weights: str
    sampler: str
    version: str
    guidance: float
    width: int
    height: int

    @classmethod
    def of(cls, calibration: Calibration) -> RunKey:
        """That of a calibration."""
        return cls(**{name: getattr(calibration, name) for name in cls.model_fields})


class CalibrationFile(_Part):
    """What such a file holds."""

    calibrations: Annotated[tuple[Calibration, ...], Field(max_length=2_000)] = ()


def read_calibrations(file: Path) -> tuple[Calibration, ...]:
    """The calibrations in a file; none if there is no file. Raises ValueError that says what is wrong."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"{file.name} is larger than {MOST_BYTES // 1_000_000} MB")
        return CalibrationFile.model_validate_json(file.read_bytes()).calibrations
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{file.name} cannot be used: {place + ': ' if place else ''}{problem['msg']}") from None


def all_calibrations(folders: Iterable[Path]) -> tuple[Calibration, ...]:
    """Those in the files of these folders, the first folder's first; a file that cannot be used is left out."""
    found: list[Calibration] = []
    for folder in folders:
        try:
            found += read_calibrations(folder / FILE)
        except (OSError, ValueError) as error:
            log.warning("%s", error)
    return tuple(found)


def keep_calibrations(folder: Path, made: Iterable[Calibration]) -> Path:
    """Add calibrations to the file in a folder, in place of those that were made for the same runs. Raises OSError."""
    file, new = folder / FILE, tuple(made)
    before = [old for old in all_calibrations([folder]) if not any(_same(old, each) for each in new)]
    folder.mkdir(parents=True, exist_ok=True)
    write_over(file, CalibrationFile(calibrations=(*new, *before)).model_dump_json().encode())
    return file


def _same(old: Calibration, new: Calibration) -> bool:
    return old.fits(RunKey.of(new)) and old.walks(new.sigmas)
