"""Estimate the time that a run still takes from the calls that it has made."""

from __future__ import annotations

from collections.abc import Sequence

from samplers.run import Plan
from samplers.schedule import flow_time_of_sigma

MIN_DONE = 0.05  # share of a run below which its calls give no estimate
SMOOTHING = 0.1


class EtaEstimator:
    """Measures network calls and decodings and estimates the time of the rest.

    plans    of the passes of each batch
    batches  images of each batch, in order
    areas    what a network call of each pass costs, relative to one of the first: about the area of its picture
    The remaining calls come from the plans where they declare them, else from the progress of the run: calls *
    (1 - done) / done. done is the share of finished steps or, for a sampler with its own grid, how far sigma has fallen
    in flow time t = sigma / (1 + sigma), in which solvers move about evenly. Later batches need as many calls as
    finished ones. Calls are counted in those of the first pass. A call costs what the network evaluates in it, one or
    both estimates of guidance, and the rest of a run as much as the latest: an adaptive guidance stays with one.
    """

    def __init__(self, plans: Sequence[Plan], batches: Sequence[int], areas: Sequence[float] = (1.0,)):
        self._plans, self._batches, self._areas = list(plans), list(batches), list(areas)
        calls = [plan.calls for plan in plans if plan.calls is not None]
        self._declared = calls if len(calls) == len(plans) else None
        self._own_grid = any(plan.own_grid for plan in plans)
        self._batch, self._pass, self._fallen = -1, 0, 0.0
        self._calls, self._units, self._measured = [0] * len(plans), 0.0, 0
        self._finished: list[float] = []
        self._total, self._left_out, self._last = 0, 0, 0.0
        self._per_call: float | None = None
        self._evaluated, self._latest = 0.0, 1.0
        self._decodings, self._decoding_time = 0, 0.0

    @property
    def calls(self) -> int:
        """Calls so far, of all batches."""
        return self._total

    @property
    def total_calls(self) -> int | None:
        """Calls of the whole run as declared; None if only the run tells, or if the declaration proved wrong."""
        return None if self._declared is None else sum(self._declared) * len(self._batches) - self._left_out

    def begin_batch(self, now: float) -> None:
        """The next batch begins to draw."""
        if self._batch >= 0 and self._batches[self._batch]:
            self._finished.append(self._units)
        self._batch, self._pass, self._fallen, self._last = self._batch + 1, 0, 0.0, now
        self._calls, self._units, self._evaluated = [0] * len(self._plans), 0.0, 0.0
        if len(self._plans) > 1:
            self._measured = 0

    def skipped(self) -> None:
        """What is left of the batch is not drawn."""
        if self._declared is not None:
            self._left_out += sum(self._declared) - sum(self._calls)
        self._batches[self._batch] = 0

    def begin_pass(self, now: float) -> None:
        """The next pass of the batch begins to draw."""
        self._pass, self._fallen, self._last, self._measured = self._pass + 1, 0.0, now, 0

    def called(self, sigma: float, now: float, unseen: float = 0.0, evaluations: float | None = None) -> None:
        """A call has returned.

        unseen       seconds since the last one that were not the network's, but a preview's
        evaluations  of the network, for an image of this batch up to now; None where they are not counted
        """
        if evaluations is not None:
            self._evaluated, self._latest = evaluations, max(evaluations - self._evaluated, 1e-9)
        area = self._areas[self._pass]
        self._total, self._units = self._total + 1, self._units + area
        self._calls[self._pass] += 1
        if self._declared is not None and self._calls[self._pass] > self._declared[self._pass]:
            self._declared = None
        top, bottom = self._ends()
        span = max(1e-12, top - bottom)
        self._fallen = max(self._fallen, (top - flow_time_of_sigma(max(0.0, float(sigma)))) / span)
        gap = max(0.0, now - self._last - unseen) / self._batches[self._batch] / area / self._latest
        self._last = now
        # The first call of all warms the device up, and says little about the others.
        if self._total > 1:
            self._measured += 1
            # A later pass is measured anew: its calls cost more than its area says where attention counts.
            share = max(SMOOTHING, 1.0 / self._measured)
            self._per_call = gap if self._per_call is None else (1 - share) * self._per_call + share * gap

    def decoded(self, seconds: float) -> None:
        """A picture was decoded and written in so many seconds."""
        self._decodings, self._decoding_time = self._decodings + 1, self._decoding_time + seconds

    def remaining(self, step: int) -> float | None:
        """Seconds left after `step` steps of the current batch; None before the second call or a first estimate."""
        left = self._left(step)
        if self._per_call is None or left is None:
            return None
        later = sum(self._batches[self._batch + 1 :])
        known = [*self._finished, self._units + left]
        calls = left * self._batches[self._batch] + later * sum(known) / len(known)
        decoding = self._decoding_time / max(1, self._decodings)
        return calls * self._per_call * self._latest + decoding * (sum(self._batches) - self._decodings)

    def _ends(self) -> tuple[float, float]:
        """The flow times between which the current pass runs."""
        positive = [sigma for sigma in self._plans[self._pass].sigmas if sigma > 0]
        return flow_time_of_sigma(positive[0]), flow_time_of_sigma(positive[-1])

    def _left(self, step: int) -> float | None:
        """Calls left of the current batch, in those of the first pass."""
        if self._declared is not None:
            return sum(n * area for n, area in zip(self._declared, self._areas, strict=True)) - self._units
        done = self._done(step)
        usual = sum(self._finished) / len(self._finished) if self._finished else None
        if usual is None:
            return self._units * (1 - done) / done if done >= MIN_DONE else None
        # By the usual number and by the way still to go; past the usual number, only the way says anything.
        left = (1 - done) * usual
        return (left + usual - self._units) / 2 if self._units < usual else left

    def _done(self, step: int) -> float:
        """The share of the current batch that is done, by steps or by how far sigma has fallen."""
        steps = [len(plan.sigmas) - 1 for plan in self._plans]
        costs = [n * area for n, area in zip(steps, self._areas, strict=True)]
        before, cost = sum(costs[: self._pass]), costs[self._pass]
        within = self._fallen if self._own_grid else (step - sum(steps[: self._pass])) / steps[self._pass]
        return (before + cost * min(1.0, max(0.0, within))) / sum(costs)
