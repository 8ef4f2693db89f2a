"""Training noise schedules: the effect of a beta schedule, zero terminal SNR and a flow shift on the curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from samplers.levels import levels
from samplers.schedule import (
    MAX_SIGMA,
    NoiseSchedule,
    alpha_bar,
    betas,
    from_alphas,
    from_betas,
    noise_share,
    shift_flow_time,
    sigma_of_flow_time,
    zero_terminal_snr,
)
from webui.core.request import RequestError
from webui.tabs.form.describe import percent
from webui.tabs.form.plots import FAINT, figure, line
from webui.templates import render

from .curves import MEASURES

FLOW = "flow"
KINDS = {
    "linear": "linear",
    "scaled linear": "scaled_linear",
    "cosine": "squaredcos_cap_v2",
    "sigmoid": "sigmoid",
    FLOW: FLOW,
}
SHOWN = ("alpha-bar", "log-SNR", "sigma")
POINTS = 200  # of a thousand timesteps
LOWEST, HIGHEST, LARGEST_SHIFT = 1e-5, 0.1, 16.0
EXPLANATIONS = {
    "alpha-bar": "The part of the picture that is left at each training timestep: "
    "where the curve is steep, a timestep changes most.",
    "log-SNR": "Signal against noise on a log scale: a shift moves the whole curve down, "
    "zero terminal SNR pulls its end to the bottom.",
    "sigma": "Noise against signal, on a log axis: "
    "the height at the right end is the noise from which a picture should start.",
}


@dataclass(frozen=True)
class TrainingCurve:
    """A training schedule as points: `times` from 0 (no noise) to 1, and sigma at each."""

    name: str
    times: tuple[float, ...]
    sigmas: tuple[float, ...]
    changed: bool = False

    @property
    def end(self) -> float:
        """sigma at the last timestep."""
        return self.sigmas[-1]


def training_curves(
    kinds: Sequence[str], start: float, end: float, zero_snr: bool, shift: float
) -> list[TrainingCurve]:
    """The chosen training schedules, each followed by itself with zero terminal SNR or the flow shift.

    kinds     keys of KINDS
    start     the first beta, and `end` the last one; the cosine ignores them
    zero_snr  rescale the beta schedules so that nothing of the picture is left at the end
    shift     of flow time; 1 is none
    Raises RequestError.
    """
    _check(kinds, start, end, shift)
    curves = []
    for kind in dict.fromkeys(kinds):
        if kind == FLOW:
            curves.append(_flow(1.0))
            curves += [_flow(shift)] if shift != 1 else []
            continue
        plain = from_betas(betas(KINDS[kind], start, end))
        curves.append(_of(kind, plain))
        if zero_snr:
            rescaled = from_alphas(zero_terminal_snr([alpha_bar(sigma) for sigma in plain.sigmas]))
            curves.append(_of(f"{kind}, zero terminal SNR", rescaled, changed=True))
    return curves


def draw_training(curves: Sequence[TrainingCurve], model: NoiseSchedule, model_name: str, measure: str) -> go.Figure:
    """The curves over training time, behind them the model's own; changed ones are dashed."""
    if measure not in SHOWN:
        raise RequestError(f"The plot shows {', '.join(SHOWN)}.")
    field, title = MEASURES[measure]
    drawing = figure(
        "training time: 0 is the picture, 1 the last timestep", title, log_y=measure == "sigma", height=400
    )
    colour = -1
    for each in [_of_model(model, model_name), *curves]:
        own = each.name.startswith("Training of ")
        colour += not each.changed and not own
        y = getattr(levels(NoiseSchedule(), each.sigmas), field)
        hover = [_hover(each.name, time, sigma) for time, sigma in zip(each.times, each.sigmas, strict=True)]
        name, dash = escape(each.name), "dash" if each.changed else None
        if own:
            line(drawing, each.times, y, name, points=False, hover=hover, colour=FAINT, width=4)
        else:
            line(drawing, each.times, y, name, points=False, hover=hover, colour=colour, dash=dash)
    return drawing


def training_table(curves: Sequence[TrainingCurve]) -> str:
    """A table: what is left of the picture at the end of each schedule, and when half of the variance is noise."""
    rows = []
    for each in curves:
        half = next((time for time, sigma in zip(each.times, each.sigmas, strict=True) if sigma >= 1), None)
        cells = (
            each.name,
            f"{each.sigmas[0]:.3g} to {f'over {MAX_SIGMA:g}' if each.end >= MAX_SIGMA else f'{each.end:.4g}'}",
            _left(each.end),
            "never" if half is None else f"{half:.2f}",
        )
        rows.append((False, cells))
    columns = ("Training", "Sigma", "Picture left at the end", "Half noise at")
    return render("tables", "strengths", columns, rows, wide=True)


def explanation(measure: str, zero_snr: bool, shift: float) -> str:
    """An explanation of the plot and of the two changes."""
    sentences = [EXPLANATIONS[measure]]
    if zero_snr:
        sentences.append(
            "Without zero terminal SNR a trace of the picture is left in the last timestep of training, and a run that "
            "starts from pure noise starts where the network never was."
        )
    if shift != 1:
        sentences.append(
            f"A flow shift of {shift:g} multiplies sigma by {shift:g} at every time, as larger pictures need it."
        )
    return " ".join(sentences)


def _flow(shift: float) -> TrainingCurve:
    model = NoiseSchedule()
    times = _times()
    flow_times = [model.bottom / 1000 + (model.top - model.bottom) / 1000 * time for time in times]
    sigmas = tuple(sigma_of_flow_time(shift_flow_time(time, shift)) for time in flow_times)
    return TrainingCurve(FLOW if shift == 1 else f"flow, shift {shift:g}", times, sigmas, changed=shift != 1)


def _of(name: str, schedule: NoiseSchedule, changed: bool = False) -> TrainingCurve:
    times = _times()
    sigmas = tuple(schedule.sigma(schedule.bottom + (schedule.top - schedule.bottom) * time) for time in times)
    return TrainingCurve(name, times, sigmas, changed)


def _of_model(schedule: NoiseSchedule, name: str) -> TrainingCurve:
    return _of(f"Training of {name}", schedule)


def _times() -> tuple[float, ...]:
    return tuple(i / (POINTS - 1) for i in range(POINTS))


def _hover(name: str, time: float, sigma: float) -> str:
    noise = f"sigma {sigma:.4g}, {100 * noise_share(sigma):.4g} % noise"
    return f"<b>{escape(name)}</b><br>time {time:.3f}<br>{noise}<br>alpha-bar {alpha_bar(sigma):.4g}"


def _left(sigma: float) -> str:
    """The amplitude of the picture at a noise level, sqrt(alpha_bar), in per cent."""
    share = alpha_bar(sigma) ** 0.5
    return percent(share) if share >= 0.001 else "under 0.1 %"


def _check(kinds: Sequence[Any], start: Any, end: Any, shift: Any) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise RequestError(f"Training schedule {str(unknown[0])[:40]!r} is unknown; known are {', '.join(KINDS)}.")
    for name, value, low, high in (
        ("First beta", start, LOWEST, HIGHEST),
        ("Last beta", end, LOWEST, HIGHEST),
        ("Flow shift", shift, 1 / LARGEST_SHIFT, LARGEST_SHIFT),
    ):
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise RequestError(f"{name} must be a number from {low:g} to {high:g}.")
    if start >= end:
        raise RequestError(f"The first beta is {start:g}; it has to be below the last one, {end:g}.")
