"""The Lab's plots: trajectories, convergence, and paths in the plane."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import plotly.graph_objects as go

from samplers.closed_form import MixtureDenoiser
from webui.engine.calibration import Calibrated
from webui.engine.convergence import Point, group
from webui.tabs.form.plots import FAINT, GRID, figure, line

from .plane import REACH, PlanePath, direction, lattice, probability
from .trajectory import Frame

ARROWS, FINE = 17, 81  # a side: places with an arrow, and of the density
EXACT = "Exact flow"
TICKS = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280)


def noise_figure(frames: Sequence[Frame]) -> go.Figure:
    """The noise level after every step."""
    drawing = figure("step", "sigma", log_y=True, height=240)
    line(drawing, [frame.number for frame in frames], [frame.sigma or None for frame in frames], "sigma")
    drawing.update_layout(showlegend=False)
    return drawing


def change_figure(frames: Sequence[Frame]) -> go.Figure:
    """How much state and estimate change in a step."""
    drawing = figure("step", "change, root mean square", log_y=True, height=240)
    for colour, (name, values) in enumerate(
        {
            "state, per sigma": [frame.change for frame in frames],
            "estimate": [frame.estimate_change for frame in frames],
        }.items()
    ):
        # A logarithmic axis has no place for a step that changes nothing.
        line(drawing, [frame.number for frame in frames], [value or None for value in values], name, colour=colour)
    return drawing


def gap_figure(frames: Sequence[Frame]) -> go.Figure:
    """The gap between the conditional and the unconditional estimate, which guidance stretches."""
    drawing = figure("step", "gap of guidance, rms", height=240)
    line(drawing, [frame.number for frame in frames], [frame.gap for frame in frames], "gap", colour=3)
    drawing.update_layout(showlegend=False)
    if not any(frame.gap is not None for frame in frames):
        text = "No gap: at this guidance only one estimate is computed."
        drawing.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return drawing


def convergence_figure(points: Sequence[Point], orders: Mapping[str, float | None], doubt: float) -> go.Figure:
    """Error over network calls, both logarithmic, a line for each sampler with its slope in the legend."""
    drawing = figure("network calls a picture", "error, relative to the answer", log_x=True, log_y=True, height=480)
    drawing.update_xaxes(tickvals=TICKS, ticktext=[str(tick) for tick in TICKS])
    drawing.update_yaxes(dtick=1, exponentformat="power")
    labels = len({point.label for point in points})
    for colour, (label, own) in enumerate(group(points)):
        order = orders.get(label)
        name = label if order is None else f"{label}, slope {order:.1f}"
        hover = [f"{label}, {point.setting}<br>{point.calls:g} calls, error {point.error:.2g}" for point in own]
        dash = (None, "dash", "dot")[colour // 8 % 3]
        line(
            drawing,
            [p.calls for p in own],
            [p.error or None for p in own],
            _plain(name),
            colour=colour,
            dash=dash,
            hover=[_plain(text, breaks=True) for text in hover],
            width=_width(colour, labels),
        )
    if points:
        _guide_lines(drawing, points, doubt)
        ends = [min(p.calls for p in points), max(p.calls for p in points)]
        if doubt > 1e-11:
            name = "error of the reference"
            line(drawing, ends, [doubt, doubt], name, colour=FAINT, dash="dash", points=False, width=1)
    return drawing


def calibration_figure(found: Sequence[Calibrated]) -> go.Figure:
    """Error over network calls, both logarithmic, of the calibrated sampler, of the best of the others, and of each."""
    drawing = figure("network calls a picture", "error of pixels, of 1", log_x=True, log_y=True, height=360)
    made = [one.calibration for one in sorted(found, key=lambda one: one.calibration.steps)]
    calls = [each.steps for each in made]
    drawing.update_xaxes(tickvals=calls, ticktext=[str(count) for count in calls])
    best = [f"{each.best.name}<br>{each.steps} calls, error {each.best.error:.2g}" for each in made]
    own = [f"Calibrated, {each.schedule}<br>{each.steps} calls, error {each.error:.2g}" for each in made]
    others = [each.best.error or None for each in made]
    measured = [one.measured for one in found if one.measured]
    for name in dict.fromkeys(name for each in measured for name in each.errors):
        points = sorted((each.calls, each.errors[name]) for each in measured if each.errors.get(name))
        xs, ys = [x for x, _ in points], [y for _, y in points]
        texts = [_plain(f"{name}<br>{x} calls, error {y:.2g}", breaks=True) for x, y in points]
        line(drawing, xs, ys, name, colour=GRID, hover=texts, width=1)
        drawing.data[-1].update(showlegend=False)
    line(drawing, calls, others, "best of the others", colour=1, hover=[_plain(text, breaks=True) for text in best])
    fitted = [each.error or None for each in made]
    line(drawing, calls, fitted, "Calibrated", colour=0, hover=[_plain(text, breaks=True) for text in own])
    return drawing


def plane_figure(density: MixtureDenoiser, sigma: float, paths: Sequence[PlanePath] = ()) -> go.Figure:
    """The noised data's density at one noise level, the flow's arrows there, and the samplers' paths.

    A large mark shows where each path is when it has come down to this level.
    """
    drawing = figure("", "", height=600)
    reach = _reach(paths)
    axis = dict(range=[-reach, reach], constrain="domain", showgrid=False, zeroline=False)
    drawing.update_layout(
        xaxis=dict(axis, scaleanchor="y", title=""), yaxis=dict(axis, title="", constraintoward="top"), dragmode="pan"
    )
    _add_density(drawing, density, sigma, reach)
    _add_arrows(drawing, density, sigma, reach)
    labels = list(dict.fromkeys(path.label for path in paths if path.label != EXACT))
    for path in paths:
        _add_path(drawing, path, labels, sigma)
    return drawing


def _guide_lines(drawing: go.Figure, points: Sequence[Point], doubt: float) -> None:
    """Faint lines of orders 1, 2 and 3 from one corner, to compare with."""
    low, high = min(p.calls for p in points), max(p.calls for p in points)
    usable = [p for p in points if 0 < p.error < math.inf]
    if low == high or not usable:
        return
    # The median at the fewest calls, where some samplers explode.
    top = median(p.error for p in usable if p.calls <= 2 * low)
    for order in (1, 2, 3):
        y = [top, top * (high / low) ** -order]
        line(drawing, [low, high], y, f"order {order}", colour=GRID, dash="dot", points=False, width=1.5)
        drawing.data[-1].update(showlegend=False, hoverinfo="skip", hovertemplate=None)
        at = dict(x=math.log10(high), y=math.log10(y[1]), xanchor="left", xshift=4)
        drawing.add_annotation(text=str(order), showarrow=False, opacity=0.6, **at)
    floor, top = min(p.error for p in usable), max(p.error for p in usable)
    # Show the reference's error where it is near the measured ones.
    floor = min(floor, doubt) if doubt > floor / 30 else floor
    drawing.update_yaxes(range=[math.log10(floor) - 0.4, math.log10(top) + 0.3])


def _reach(paths: Sequence[PlanePath]) -> float:
    """Half the side of a picture that shows all of the paths, up to twice the usual one: fresh noise leads far out."""
    places = (abs(place) for path in paths for place in (*path.xs, *path.ys) if math.isfinite(place))
    return min(max(REACH, 1.05 * max(places, default=0.0)), 2 * REACH)


def _add_density(drawing: go.Figure, density: MixtureDenoiser, sigma: float, reach: float) -> None:
    places = lattice(FINE, reach)
    # The root makes thin parts visible.
    values = probability(density, places, sigma).sqrt().reshape(FINE, FINE)
    drawing.add_trace(
        go.Heatmap(
            x=[round(x, 4) for x in places[:FINE, 0].tolist()],
            y=[round(y, 4) for y in places[::FINE, 1].tolist()],
            z=[[round(v, 4) for v in row] for row in values.tolist()],
            colorscale=[[0, "rgba(31,156,136,0)"], [1, "rgba(31,156,136,0.55)"]],
            zsmooth="best",
            showscale=False,
            hoverinfo="skip",
        )
    )


def _add_arrows(drawing: go.Figure, density: MixtureDenoiser, sigma: float, reach: float) -> None:
    places = lattice(ARROWS, reach * 0.94)
    velocity = direction(density, places, sigma)
    length = velocity.norm(dim=1, keepdim=True)
    # The longest arrow is one step of the lattice; the root keeps short ones visible.
    shown = velocity / length.clamp(min=1e-9) * (length / length.max()).sqrt() * (1.8 * reach / ARROWS)
    ends = places + shown
    x, y = (
        [v for a, b in zip(places[:, i].tolist(), ends[:, i].tolist()) for v in (round(a, 3), round(b, 3), None)]
        for i in (0, 1)
    )
    paint = dict(color="rgba(128,140,142,0.75)")
    drawing.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            line=dict(paint, width=1),
            hoverinfo="skip",
            name="arrows of the flow",
            legendgroup="flow",
        )
    )
    angles = [round(math.degrees(math.atan2(dx, dy)), 1) for dx, dy in shown.tolist()]
    marker = dict(paint, symbol="arrow", size=6, angle=angles)
    heads = [[round(v, 3) for v in ends[:, i].tolist()] for i in (0, 1)]
    drawing.add_trace(
        go.Scatter(
            x=heads[0],
            y=heads[1],
            mode="markers",
            marker=marker,
            hoverinfo="skip",
            showlegend=False,
            legendgroup="flow",
        )
    )


def _add_path(drawing: go.Figure, path: PlanePath, labels: Sequence[str], sigma: float) -> None:
    exact = path.label == EXACT
    place = 0 if exact else labels.index(path.label)
    hover = [f"{path.label}<br>sigma {level:.3g}" for level in path.sigmas]
    xs, ys = [round(x, 4) for x in path.xs], [round(y, 4) for y in path.ys]
    line(
        drawing,
        xs,
        ys,
        _plain(path.label),
        colour=FAINT if exact else place,
        dash="dash" if exact else None,
        points=not exact,
        width=1.6 if exact else 0.75 * _width(place, len(labels)),
        hover=[_plain(text, breaks=True) for text in hover],
    )
    # A click in the legend hides all paths of a sampler.
    drawing.data[-1].update(legendgroup=_plain(path.label), showlegend=path.point == 0, marker_size=4)
    here = max((i for i, level in enumerate(path.sigmas) if level >= sigma), default=0)
    paint = drawing.data[-1].line.color
    mark = dict(color=paint, size=11, line=dict(color="white", width=1.5))
    style = dict(mode="markers", marker=mark, legendgroup=_plain(path.label), showlegend=False)
    drawing.add_trace(go.Scatter(x=xs[here : here + 1], y=ys[here : here + 1], hoverinfo="skip", **style))


def _width(place: int, count: int) -> float:
    """The width of a line: wider below, narrower above, so that all of several equal lines are seen."""
    return 1.8 + 0.55 * min(5, count - 1 - place)


def _plain(text: str, breaks: bool = False) -> str:
    """Escape a text: Plotly reads some HTML, and names come from plugins."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return safe.replace("&lt;br&gt;", "<br>") if breaks else safe
