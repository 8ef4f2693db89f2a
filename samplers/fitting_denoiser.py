"""The denoiser that a fit of a sampler or a schedule is given: of all pictures, or of the first of them alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .estimates import Denoise
from .reference import solve_flow
from .wrappers import Wrapper

STEPS_EACH = 2.0  # Runge-Kutta steps, of four calls each, to the end of the flow, for a fall of sigma by e


class FittingDenoise(Wrapper):
    """denoise(x, sigma) of `count` pictures, or of a whole multiple of them: the same ones again and again.

    of       makes the denoiser of the pictures in a range, which takes whole multiples of them too
    at_once  pictures that are asked for together; halved where memory does not hold them
    """

    def __init__(self, of: Callable[[range], Denoise], count: int, at_once: int | None = None):
        self._of, self._count, self._at_once = of, count, at_once or count
        self._denoisers: dict[range, Denoise] = {}
        self._ends: list[tuple[torch.Tensor, float, torch.Tensor]] = []

    @property
    def denoise(self) -> Denoise:
        """That of the pictures that are asked for together first."""
        return self._denoiser(range(min(self._at_once, self._count)))

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        while True:
            try:
                return self._asked(x.unflatten(0, (-1, self._count)), sigma).flatten(0, 1)
            except torch.OutOfMemoryError:
                if self._at_once == 1:
                    raise
                self._at_once = max(1, min(self._at_once, self._count) // 2)
                self._denoisers.clear()

    def first(self, count: int) -> FittingDenoise:
        """The denoiser of the first pictures alone, with which directions of a search cost less."""
        return FittingDenoise(self._of, count, self._at_once)

    def ends(self, starts: torch.Tensor, sigma: float, finer: int = 1) -> torch.Tensor:
        """The estimates of x0 where the flow takes all pictures from `starts` at sigma: what a run should end with.

        finer  times as many steps of the solver
        They are solved for once, and remembered for fits to other numbers of steps.
        """
        for known, level, ends in self._ends:
            if level == sigma and torch.equal(known, starts):
                return ends
        assert self.model is not None
        low = self.model.sigma_min
        steps = finer * (round(STEPS_EACH * math.log(sigma / low)) + 1)
        found = self(solve_flow(self, starts, sigma, low, steps), low)
        self._ends.append((starts, sigma, found))
        return found

    def _asked(self, copies: torch.Tensor, sigma: float) -> torch.Tensor:
        """(copies, pictures, ...) -> their estimates, so many at once as `at_once` says."""
        made = []
        for begin in range(0, self._count, self._at_once):
            pictures = range(begin, min(begin + self._at_once, self._count))
            several = max(1, self._at_once // len(pictures))
            denoise = self._denoiser(pictures)
            parts = (part[:, begin : pictures.stop].flatten(0, 1) for part in copies.split(several))
            made.append(torch.cat([denoise(part, sigma) for part in parts]).unflatten(0, (-1, len(pictures))))
        return torch.cat(made, 1)

    def _denoiser(self, pictures: range) -> Denoise:
        if pictures not in self._denoisers:
            self._denoisers[pictures] = self._of(pictures)
        return self._denoisers[pictures]
