"""Plots: transparent, so that they fit light and dark; log axes where asked; every point can be read on hover."""

from webui.tabs.form.plots import COLOURS, figure, line


def test_a_figure_has_no_ground_of_its_own_and_the_axes_asked_for():
    drawing = figure("step", "sigma", log_y=True)
    line(drawing, [0, 1, 2], [3.0, 1.0, None], "Karras", colour=9)
    line(drawing, [0, 1], [1.0, 2.0], "other", colour="red", points=False, hover=["a", "b"])
    assert drawing.layout.yaxis.type == "log" and drawing.layout.xaxis.type == "linear"
    assert drawing.layout.paper_bgcolor == drawing.layout.plot_bgcolor == "rgba(0,0,0,0)"
    first, second = drawing.data
    assert first.line.color == COLOURS[1] and first.mode == "lines+markers" and list(first.y) == [3.0, 1.0, None]
    assert second.line.color == "red" and second.mode == "lines" and list(second.text) == ["a", "b"]
