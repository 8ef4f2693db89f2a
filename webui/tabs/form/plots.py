"""Plotly figures in the style of the page, with colours for light and dark backgrounds.

Plotly has log axes, clickable legends and numbers on hover, and works offline; Gradio's own line plot has no log axis.
Figures are transparent, and style.css gives their text the page's colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

# The palette of Okabe and Ito for colour-blind eyes, without black and yellow.
COLOURS = ("#1f9c88", "#d55e00", "#0072b2", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7b6fd0")
FAINT = "rgba(128, 140, 142, 0.75)"
GRID = "rgba(128, 140, 142, 0.22)"


def figure(x_title: str, y_title: str, *, log_x: bool = False, log_y: bool = False, height: int = 360) -> go.Figure:
    """An empty figure; every trace of `line` shows its numbers on hover and can be hidden by the legend."""
    axis = dict(gridcolor=GRID, zeroline=False, linecolor=GRID, automargin=True)
    return go.Figure(
        layout=dict(
            template="none",
            height=height,
            margin=dict(l=8, r=8, t=8, b=8),
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            hovermode="closest",
            hoverlabel=dict(bgcolor="#242d30", bordercolor="#4c585b", align="left", font=dict(size=12)),
            legend=dict(orientation="h", y=1.02, yanchor="bottom", x=0, bgcolor="rgba(0,0,0,0)"),
            xaxis=dict(axis, title=x_title, type="log" if log_x else "linear"),
            yaxis=dict(axis, title=y_title, type="log" if log_y else "linear"),
        )
    )


def line(
    drawing: go.Figure,
    x: Sequence[float | None],
    y: Sequence[float | None],
    name: str,
    *,
    colour: str | int = 0,
    dash: str | None = None,
    points: bool = True,
    width: float = 2,
    hover: Sequence[str] | None = None,
) -> None:
    """Add a line. `colour` is a CSS colour or an index of COLOURS, `hover` a text for each point instead of x and y."""
    paint = COLOURS[colour % len(COLOURS)] if isinstance(colour, int) else colour
    drawing.add_trace(
        go.Scatter(
            x=list(x),
            y=list(y),
            name=name,
            mode="lines+markers" if points else "lines",
            line=dict(color=paint, width=width, dash=dash),
            marker=dict(color=paint, size=6),
            text=list(hover) if hover is not None else None,
            hovertemplate="%{text}<extra></extra>"
            if hover is not None
            else "%{x:.4g}, %{y:.4g}<extra>%{fullData.name}</extra>",
        )
    )


def dots(
    drawing: go.Figure,
    x: Sequence[float | None],
    y: Sequence[float | None],
    name: str,
    *,
    colour: str | int = 0,
    hover: Sequence[str] | None = None,
) -> None:
    """Add rings without a line."""
    line(drawing, x, y, name, colour=colour, hover=hover)
    drawing.data[-1].update(mode="markers", marker=dict(symbol="circle-open", size=9, line=dict(width=1.8)))


def halos(
    drawing: go.Figure, x: Sequence[float | None], y: Sequence[float | None], name: str, *, colour: str | int = 0
) -> None:
    """Add soft discs behind the points of other traces, whose hover texts still show."""
    line(drawing, x, y, name, colour=colour)
    # The opacity of the trace and not of its discs, which would be darker where they overlap.
    drawing.data[-1].update(mode="markers", marker=dict(size=17), opacity=0.42, hoverinfo="skip", hovertemplate=None)


def mark(drawing: go.Figure, x: float, text: str) -> None:
    """Add a vertical line with a text at its top."""
    drawing.add_vline(x=x, line=dict(color=FAINT, width=1.5, dash="dot"))
    drawing.add_annotation(
        x=x, y=1, yref="paper", text=text, showarrow=False, xanchor="left", yanchor="top", xshift=6, font=dict(size=12)
    )
