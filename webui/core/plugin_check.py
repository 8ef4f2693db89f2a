"""Check a plugin file as its author's tests would: every check of `samplers.testing` on everything in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from samplers.registry import load_plugin
from samplers.sampler import Sampler
from samplers.testing import CheckFailed, check_guidance, check_schedule, checks


@dataclass(frozen=True)
class CheckResult:
    """One check of one sampler, schedule or guidance.

    name     of the sampler, schedule or guidance; check: of the check; about: what it expects
    problem  what was expected, what came and where to look; "" if it passed
    """

    name: str
    check: str
    about: str
    problem: str = ""


@dataclass(frozen=True)
class PluginReport:
    """What the checks of a plugin said; `broken` has what could not be loaded at all, with its reason."""

    file: str
    results: tuple[CheckResult, ...]
    broken: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything in it can be used, and keeps the contract."""
        return bool(self.results) and not self.broken and not any(result.problem for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON data."""
        return dict(asdict(self), passed=self.passed)


def check_plugin(path: Path, distilled: bool = False) -> PluginReport:
    """Run every check on a plugin: a .py file, or a folder with `__init__.py`. Its code runs.

    distilled  all its samplers are for networks that answer with the end of the flow; else those that declare it
    """
    found = load_plugin(path)
    results = [result for entry in found.samplers.values() for result in _sampler_results(entry.item, distilled)]
    for entry in found.schedules.values():
        about = "It makes falling sigmas that models are trained on, for any number of steps and every option."
        results.append(CheckResult(entry.name, "schedule", about, _problem(check_schedule, entry.item)))
    for guidance in found.guidances.values():
        about = "It follows CFG's contract: estimates, pictures apart, inputs and global state."
        results.append(CheckResult(guidance.name, "guidance", about, _problem(check_guidance, guidance.item)))
    return PluginReport(path.name, tuple(results), tuple(f"{one.name}: {one.reason}" for one in found.broken))


def _sampler_results(sampler: Sampler, distilled: bool) -> Iterator[CheckResult]:
    for check in checks(sampler, distilled=distilled or None):
        yield CheckResult(sampler.name, check.name, check.about, _problem(check.run, check.case))


def _problem(check: Callable[..., None], *arguments: Any) -> str:
    try:
        check(*arguments)
    except CheckFailed as failure:
        return str(failure)
    # A plugin may raise anything, where a check does not expect it.
    except Exception as error:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    return ""
