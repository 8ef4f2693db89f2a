"""Training schedules to play with, against their definitions."""

import math

import pytest
from oracles import sd

from samplers.schedule import MAX_SIGMA, alpha_bar, from_betas
from samplers.schedule import betas as beta_schedule
from webui.core.request import RequestError
from webui.tabs.schedule.training_curves import (
    KINDS,
    SHOWN,
    draw_training,
    explanation,
    training_curves,
    training_table,
)


def curves(*kinds, zero=False, shift=1.0, start=0.00085, end=0.012):
    return {each.name: each for each in training_curves(kinds, start, end, zero, shift)}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "flow"])
def test_a_beta_schedule_is_drawn_from_its_own_levels(kind):
    drawn, own = curves(kind)[kind], from_betas(beta_schedule(KINDS[kind], 0.00085, 0.012))
    assert drawn.times[0] == 0 and drawn.times[-1] == 1
    assert (drawn.sigmas[0], drawn.sigmas[-1]) == (own.sigma_min, own.sigma_max)
    assert list(drawn.sigmas) == sorted(drawn.sigmas)


def test_zero_terminal_snr_ends_at_nothing_and_leaves_the_start():
    both = curves("linear", "scaled linear", zero=True)
    assert list(both) == ["linear", "linear, zero terminal SNR", "scaled linear", "scaled linear, zero terminal SNR"]
    plain, changed = both["scaled linear"], both["scaled linear, zero terminal SNR"]
    assert changed.end == MAX_SIGMA and changed.changed and alpha_bar(plain.end) > 0.004
    assert changed.sigmas[0] == pytest.approx(plain.sigmas[0], rel=1e-9)
    assert "under 0.1 %" in training_table([changed]) and "over 4500" in training_table([changed])
    # sqrt(alpha_bar) of Stable Diffusion's last timestep, as Lin et al. 2023 give it: 0.068265.
    assert "6.8 %" in training_table([plain])


def test_a_flow_shift_moves_log_snr_by_twice_its_logarithm():
    both = curves("flow", shift=3.0)
    for plain, shifted in zip(both["flow"].sigmas, both["flow, shift 3"].sigmas, strict=True):
        assert math.log(shifted / plain) == pytest.approx(math.log(3))


@pytest.mark.parametrize("measure", SHOWN)
def test_the_model_s_own_training_is_behind(measure):
    drawing = draw_training(
        list(curves("cosine", "sigmoid", "flow", zero=True, shift=2).values()), sd(), "toy <b>", measure
    )
    assert drawing.data[0].name == "Training of toy &lt;b&gt;" and len(drawing.data) == 7
    assert [trace.line.dash for trace in drawing.data[1:]] == [None, "dash"] * 3
    assert drawing.layout.yaxis.type == ("log" if measure == "sigma" else "linear")
    changed, plain = drawing.data[2], drawing.data[1]
    assert changed.line.color == plain.line.color != drawing.data[3].line.color


def test_the_words_follow_what_is_switched_on():
    assert "zero terminal" not in explanation("alpha-bar", False, 1) and "Zero" not in explanation("sigma", False, 1)
    assert "starts where the network never was" in explanation("alpha-bar", True, 1)
    assert "multiplies sigma by 3" in explanation("sigma", False, 3)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(start=0.02, end=0.01), "first beta is 0.02; it has to be below the last one, 0.01"),
        (dict(start=None), "First beta must be a number from 1e-05 to 0.1"),
        (dict(end=0.5), "Last beta must be"),
        (dict(shift=0), "Flow shift must be"),
        (dict(shift=float("nan")), "Flow shift must be"),
    ],
)
def test_wrong_numbers_are_explained(wrong, says):
    with pytest.raises(RequestError, match=says):
        curves("linear", **wrong)
    with pytest.raises(RequestError, match="'sine' is unknown; known are linear, scaled linear, cosine, sigmoid, flow"):
        curves("sine")
    with pytest.raises(RequestError, match="The plot shows alpha-bar"):
        draw_training([], sd(), "toy", "x")
