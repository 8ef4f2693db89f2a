"""Draw lists of sigmas in any measure, against steps or against the model's time, as one Plotly figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from samplers.levels import DryRun, Levels, levels
from samplers.schedule import NoiseSchedule, noise_share
from webui.core.request import Request, RequestError
from webui.tabs.form.plots import FAINT, dots, figure, halos, line, mark

# What can be drawn: the field of Levels, and the axis' title.
MEASURES = {
    "sigma": ("sigmas", "sigma"),
    "log-SNR": ("log_snr", "log-SNR"),
    "alpha-bar": ("alpha_bar", "alpha-bar, the share of signal"),
    "timestep": ("timesteps", "training timestep"),
}
AGAINST = ("step", "time")
LOGS = ("vertical", "horizontal")
TRAINING_POINTS = 200  # of a thousand training timesteps, more than a screen can tell apart
GUIDED = 5  # colour of the mark of guidance
# What each measure is, and what its shape over the steps means.
EXPLANATIONS = {
    "sigma": ("Noise against signal at each level.", "The steeper the curve, the more noise one step takes away."),
    "log-SNR": (
        "Signal against noise on a log scale.",
        "A straight line removes the same factor of noise with each step.",
    ),
    "alpha-bar": (
        "The share of picture in the variance: 0 is nothing but noise, 1 the clean picture.",
        "Where it is flat, a step changes little.",
    ),
    "timestep": (
        "The training timestep that the network is given.",
        "It tells the network how much noise to expect at each step.",
    ),
}
TIME_EXPLANATION = (
    "Against time every schedule lies on the model's own curve within its range; only the places of its points differ."
)


@dataclass(frozen=True)
class View:
    """How to draw: a key of MEASURES, one of AGAINST, and which of LOGS are logarithmic where the numbers allow it."""

    measure: str = "sigma"
    against: str = "step"
    logs: tuple[str, ...] = ("vertical",)

    def __post_init__(self) -> None:
        if self.measure not in MEASURES or self.against not in AGAINST:
            raise RequestError(f"The plot shows {', '.join(MEASURES)} against {' or '.join(AGAINST)}.")

    @property
    def log_x(self) -> bool:
        """Whether the horizontal axis is logarithmic."""
        return "horizontal" in self.logs

    @property
    def log_y(self) -> bool:
        """Whether the vertical axis is logarithmic; never for log-SNR, which is a logarithm and has both signs."""
        return "vertical" in self.logs and self.measure != "log-SNR"

    @property
    def sentence(self) -> str:
        """An explanation of the plot in two sentences."""
        what, shape = EXPLANATIONS[self.measure]
        return f"{what} {TIME_EXPLANATION if self.against == 'time' else shape}"


@dataclass(frozen=True)
class Curve:
    """One curve of a plot.

    places  where each sigma stands, counted in steps
    look    "run", "second", "skipped", "calls" (rings without a line), "guided" (halos without a line) or "other"
    """

    name: str
    places: tuple[float, ...]
    sigmas: tuple[float, ...]
    look: str = "other"


def curve(name: str, sigmas: Sequence[float], look: str = "other") -> Curve:
    """A whole list, one step from each sigma to the next."""
    return Curve(name, tuple(map(float, range(len(sigmas)))), tuple(sigmas), look)


def second_curve(name: str, first: Sequence[float], sigmas: Sequence[float]) -> Curve:
    """The list of a second pass, which begins where the first one, through the levels `first`, has ended."""
    return Curve(name, tuple(len(first) - 1.0 + i for i in range(len(sigmas))), tuple(sigmas), "second")


def run_curves(name: str, whole: Sequence[float], run: Sequence[float], dry_run: DryRun | None = None) -> list[Curve]:
    """The curves of one run: the part that runs, the part that img2img leaves out, and the calls between the levels.

    whole      all sigmas of the schedule
    run        those that run: the last ones, the first of which may lie between two of `whole`
    dry_run    the network calls; not drawn where they are at the levels themselves, one for each step
    """
    places = places_of(whole, run)
    curves = [Curve(name, places, tuple(run), "run")]
    left_out = len(whole) - len(run) + 1
    if left_out > 1 or places[0] > 0:
        before = [place for place in range(left_out) if place < places[0]]
        skipped = tuple(float(place) for place in before) + places[:1]
        curves.append(
            Curve("Left out by the strength", skipped, (*(whole[place] for place in before), run[0]), "skipped")
        )
    calls = dry_run.calls if dry_run else ()
    if [call.sigma for call in calls] != list(run[:-1]) and calls:
        at = tuple(between(places, call.place) for call in calls)
        curves.append(Curve(f"Network calls ({len(calls)})", at, tuple(call.sigma for call in calls), "calls"))
    return curves


def guided_curve(
    request: Request, places: Sequence[float], calls: Sequence[tuple[float, float]], of: str = ""
) -> list[Curve]:
    """The mark of the guided calls on a curve whose points stand at `places`; empty where no call is guided.

    of  the name of the run, where several are drawn
    """
    guided = [(between(places, place), sigma) for place, sigma in calls if request.guidance_at(sigma) != 1]
    if not guided:
        return []
    where, sigmas = zip(*guided, strict=True)
    return [Curve(f"Guidance {request.guidance:g}{f', {of}' if of else ''}", where, sigmas, "guided")]


def ends_curve(name: str, sigmas: Sequence[float]) -> Curve:
    """The known ends of an adaptive run: the first sigma, and the last positive one, where its solver stops."""
    last = len(sigmas) - 2
    return Curve(
        f"{name}: from start to end, its own steps between",
        (0.0, float(max(last, 1))),
        (sigmas[0], sigmas[last]),
        "skipped",
    )


def places_of(whole: Sequence[float], run: Sequence[float]) -> tuple[float, ...]:
    """Where the sigmas of a run stand among the steps of the whole schedule; the first by its log sigma."""
    after = len(whole) - len(run) + 1
    rest = tuple(float(place) for place in range(after, len(whole)))
    above, below = whole[after - 1], whole[after]
    if run[0] >= above or below <= 0:
        return (after - 1.0, *rest)
    return (after - 1 + math.log(above / run[0]) / math.log(above / below), *rest)


def draw(model: NoiseSchedule, model_name: str, curves: Sequence[Curve], view: View, start: str = "") -> go.Figure:
    """The figure: the model's training schedule behind, then the curves.

    start  words for the place where the first curve begins, if it leaves something out
    """
    field, title = MEASURES[view.measure]
    across = "step" if view.against == "step" else "time (training timestep), from noise to picture"
    drawing = figure(across, title, log_x=view.log_x, log_y=view.log_y, height=400)
    steps = max((each.places[-1] for each in curves if each.look != "second"), default=20.0)
    _trace(drawing, model, _training(model, model_name, steps), view, field, 0)
    colour = 0
    for each in curves:
        if each.look in ("other", "second"):
            colour += 1
        _trace(drawing, model, each, view, field, colour if each.look in ("other", "second") else 0)
    if view.against == "time":
        drawing.update_xaxes(autorange="reversed")
    if start and view.against == "step" and not view.log_x:
        mark(drawing, curves[0].places[0], escape(start))
    return drawing


def _training(model: NoiseSchedule, name: str, steps: float) -> Curve:
    """The noise levels that the network was trained on, from top to bottom, spread evenly over `steps`."""
    shares = [i / (TRAINING_POINTS - 1) for i in range(TRAINING_POINTS)]
    sigmas = tuple(model.sigma(model.top + (model.bottom - model.top) * share) for share in shares)
    return Curve(f"Training of {name}", tuple(steps * share for share in shares), sigmas, "training")


def _trace(drawing: go.Figure, model: NoiseSchedule, each: Curve, view: View, field: str, colour: int) -> None:
    known = levels(model, each.sigmas)
    across = each.places if view.against == "step" else known.timesteps
    name, hover = escape(each.name), _hovers(each, known)
    y = [_shown(value, view.log_y) for value in getattr(known, field)]
    x = [_shown(value, view.log_x) for value in across]
    if each.look == "calls":
        dots(drawing, x, y, name, colour=4, hover=hover)
    elif each.look == "guided":
        halos(drawing, x, y, name, colour=GUIDED)
    elif each.look == "training":
        line(drawing, x, y, name, colour=FAINT, points=False, hover=hover)
    elif each.look == "skipped":
        line(drawing, x, y, name, colour=FAINT, dash="dot", hover=hover)
    else:
        many = len(each.sigmas) > TRAINING_POINTS
        line(drawing, x, y, name, colour=colour, width=2.5 if each.look == "run" else 1.8, hover=hover, points=not many)
    # The legend keeps the order of the list; the run and its calls are drawn on top.
    drawing.data[-1].update(zorder=dict(run=1, calls=2, guided=-1).get(each.look, 0))


def _hovers(each: Curve, known: Levels) -> list[str]:
    name = escape(each.name)
    return [
        f"<b>{name}</b><br>step {place:.4g}<br>sigma {sigma:.4g}, {100 * noise_share(sigma):.3g} % noise<br>"
        f"log-SNR {'infinite' if snr is None else f'{snr:.4g}'}<br>alpha-bar {bar:.4g}<br>timestep {time:.5g}"
        for place, sigma, snr, bar, time in zip(
            each.places, known.sigmas, known.log_snr, known.alpha_bar, known.timesteps, strict=True
        )
    ]


def _shown(value: float | None, log: bool) -> float | None:
    """The value; None for one that a log axis cannot show."""
    return None if value is None or (log and value <= 0) else value


def between(places: Sequence[float], at: float) -> float:
    """The place `at` steps after the first of `places`."""
    index = min(int(at), len(places) - 2)
    return places[index] + (at - index) * (places[index + 1] - places[index])
