"""Random streams: the same picture for the same seed, for ever, whatever the batch, the device and the neighbours."""

import math
import random
import warnings

import numpy as np
import pytest
import torch

from samplers.noise import NOISE_VERSION, Noise, stream_key

LATENTS = torch.zeros(1, 4, 16, 16)

# If one of these fails, every old seed gives another picture: give NOISE_VERSION a new number and say so, or mend it.
KEYS = {
    (0, "initial", 0): 475076180051584799,
    (0, "step", 0): 6299502447259552022,
    (0, "step", 1): 8599028595379576222,
    (123456789, "step", 0): 5320730402194570071,
    (2**64 - 1, "initial", 0): 6015217392923421674,
}
FIRST = {
    (42, "initial"): [[0.454148, -0.065355, -0.002674], [0.03272, 0.761396, 1.035199]],
    (42, "step"): [[0.260778, -1.183501, -0.84999], [1.077579, -2.390702, 1.622109]],
    (43, "step"): [[0.455538, 2.422632, 0.466076], [1.272032, -0.535357, -0.170901]],
}
PATH = [0.205839, -0.06368, -0.583908]


def test_old_seeds_keep_their_streams():
    assert NOISE_VERSION == 1
    assert {key: stream_key(*key) for key in KEYS} == KEYS


@pytest.mark.parametrize("seed, purpose", FIRST)
def test_old_seeds_keep_their_noise(seed, purpose):
    noise = Noise((seed,), purpose)
    values = [noise(LATENTS).flatten()[[0, 1, -1]].tolist() for _ in range(2)]
    # The vectorized and the plain way of PyTorch differ in the last bits.
    assert np.allclose(values, FIRST[seed, purpose], atol=1e-5)


def test_old_seeds_keep_their_brownian_path():
    increment = Noise((42,)).brownian(LATENTS, 0.03, 14.6)
    values = [increment(*ends).flatten()[0].item() for ends in ((14.6, 5.0), (5.0, 0.5), (0.5, 0.03))]
    assert np.allclose(values, PATH, atol=1e-4)


def test_keys_differ_by_seed_purpose_and_draw_and_fit_a_generator():
    keys = {stream_key(s, p, d) for s in range(-5, 200) for p in ("initial", "step") for d in range(50)}
    assert len(keys) == 205 * 2 * 50
    assert all(0 <= key < 2**63 for key in keys)


def test_an_image_s_noise_does_not_depend_on_its_neighbours_or_its_place():
    together, shuffled, alone = Noise((5, 6, 7)), Noise((7, 5, 6)), Noise((6,))
    for _ in range(3):
        a, b, c = together(torch.zeros(3, 4, 5, 5)), shuffled(torch.zeros(3, 4, 5, 5)), alone(torch.zeros(1, 4, 5, 5))
        assert torch.equal(a[1:2], c) and torch.equal(b[2:3], c) and torch.equal(a[[2, 0, 1]], b)
        assert not torch.equal(a[0], a[1])


def test_equal_seeds_give_equal_noise_and_each_draw_is_new():
    noise = Noise((9, 9))
    first, second = noise(torch.zeros(2, 3, 4, 4)), noise(torch.zeros(2, 3, 4, 4))
    assert torch.equal(first[0], first[1]) and not torch.equal(first, second)


def test_purposes_are_independent():
    x = torch.zeros(1, 4, 100, 100)
    purposes = [Noise((3,), purpose)(x).flatten() for purpose in ("initial", "step", "another")]
    correlation = torch.corrcoef(torch.stack(purposes))
    assert (correlation - torch.eye(3)).abs().max() < 0.025


def test_neighbouring_seeds_and_draws_are_independent():
    noise = Noise(range(6))
    x = torch.zeros(6, 1, 120, 120)
    draws = torch.cat([noise(x).flatten(1), noise(x).flatten(1)])
    assert (torch.corrcoef(draws) - torch.eye(12)).abs().max() < 0.045


def test_noise_is_unit_normal():
    values = Noise((1,))(torch.zeros(1, 4, 200, 200)).flatten().double()
    assert abs(values.mean()) < 0.0125 and abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.07 and abs((values**3).mean()) < 0.035


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_noise_has_the_state_s_dtype_and_the_same_values(dtype):
    noise = Noise((1,))(LATENTS.to(dtype))
    assert noise.dtype == dtype and noise.shape == LATENTS.shape
    assert torch.equal(noise, Noise((1,))(LATENTS).to(dtype))


def test_global_generators_are_not_touched():
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    noise = Noise((1, 2))
    x = torch.zeros(2, 2, 3, 3)
    noise(x)
    increment = noise.brownian(x, 0.03, 14.6)
    first = increment(14.6, 3.0), increment(3.0, 1.0)
    assert (
        torch.equal(torch.get_rng_state(), before[0]) and (random.getstate(), repr(np.random.get_state())) == before[1:]
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        again = Noise((1, 2))
        again(x)
        increment = again.brownian(x, 0.03, 14.6)
        assert torch.equal(increment(14.6, 3.0), first[0]) and torch.equal(increment(3.0, 1.0), first[1])


def test_a_wrong_batch_is_refused():
    for draw in (lambda noise, x: noise(x), lambda noise, x: noise.brownian(x, 0.1, 1.0)):
        with pytest.raises(ValueError, match="noise was made for 2 images, and x has 3"):
            draw(Noise((1, 2)), torch.zeros(3, 1, 2, 2))


# --- the Brownian path


def brownian(seeds=(1,), shape=(4, 16, 16), low=0.029167158, high=14.614641229, dtype=torch.float32):
    return Noise(seeds).brownian(torch.zeros(len(seeds), *shape, dtype=dtype), low, high)


@pytest.mark.parametrize(
    "high, middle, low",
    [(14.6, 5.0, 0.03), (14.614641229, 14.0, 13.9), (1.0, 0.5, 0.4), (0.05, 0.04, 0.03), (0.1, 0.0999, 0.0998)],
)
def test_increments_add_up(high, middle, low):
    increment = brownian(dtype=torch.float64)
    parts = increment(high, middle) * math.sqrt(high - middle) + increment(middle, low) * math.sqrt(middle - low)
    assert (parts - increment(high, low) * math.sqrt(high - low)).abs().max() < 2e-5


def test_increments_do_not_depend_on_the_order_of_questions():
    one, other = brownian(), brownian()
    questions = [(14.0, 9.0), (9.0, 3.0), (3.0, 0.5), (0.5, 0.05), (9.0, 0.5)]
    assert all(
        torch.equal(a, b) for a, b in zip([one(*q) for q in questions], [other(*q) for q in reversed(questions)][::-1])
    )


@pytest.mark.parametrize(
    "sigma, lower", [(14.614641229, 10.0), (1.0, 0.9), (0.1, 0.0999), (0.03, 0.0299), (0.029267158, 0.029167158)]
)
def test_increments_are_unit_normal(sigma, lower):
    values = brownian(shape=(1, 150, 150))(sigma, lower).flatten().double()
    assert abs(values.mean()) < 0.034 and abs(values.std() - 1) < 0.024


def test_increments_of_intervals_apart_are_independent_and_upwards_is_minus_downwards():
    increment = brownian(shape=(1, 120, 120))
    parts = torch.stack([increment(*ends).flatten() for ends in ((14.0, 9.0), (9.0, 3.0), (3.0, 0.5), (0.5, 0.05))])
    assert (torch.corrcoef(parts) - torch.eye(4)).abs().max() < 0.045
    assert torch.equal(increment(3.0, 9.0), -increment(9.0, 3.0))


def test_a_path_does_not_depend_on_the_neighbours():
    together, alone = brownian((4, 5)), brownian((5,))
    for ends in ((14.0, 9.0), (9.0, 0.1)):
        assert torch.equal(together(*ends)[1:], alone(*ends))
        assert not torch.equal(together(*ends)[0], together(*ends)[1])


def test_a_path_is_independent_of_the_drawn_noise_and_of_another_path():
    noise, x = Noise((1,)), torch.zeros(1, 1, 120, 120)
    streams = [
        noise(x),
        noise.brownian(x, 0.1, 10.0)(10.0, 0.1),
        noise.brownian(x, 0.1, 10.0)(10.0, 0.1),
        Noise((1,), "initial")(x),
    ]
    assert (torch.corrcoef(torch.stack([s.flatten() for s in streams])) - torch.eye(4)).abs().max() < 0.045


def test_the_ends_of_a_path_are_inside_it():
    # Real levels have more digits than the tree keeps.
    for low, high in (
        (0.029167158151720367, 14.614641229333643),
        (0.001001001001, 998.9999999999991),
        (0.0291671, 4500.0),
    ):
        increment = brownian(low=low, high=high)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.isfinite(increment(high, (low + high) / 2)).all()
            assert torch.isfinite(increment((low + high) / 2, low)).all()


# --- increments that are drawn as they are asked for


def increments(seeds=(1,), shape=(1, 120, 120)):
    return Noise(seeds).increments(torch.zeros(len(seeds), *shape, dtype=torch.float64))


QUESTIONS = [
    [(14.0, 9.0), (9.0, 3.0), (3.0, 0.5)],
    [(14.0, 12.0), (14.0, 9.0), (9.0, 8.0), (9.0, 3.0), (3.0, 0.5)],
    [(14.0, 9.0), (14.0, 12.0), (9.0, 3.0), (9.0, 4.0), (3.0, 0.5)],
    [(3.0, 0.5), (14.0, 9.0), (12.0, 0.7), (9.0, 3.0)],
]


@pytest.mark.parametrize("questions", QUESTIONS)
def test_increments_of_any_questions_are_those_of_a_brownian_path(questions):
    path = increments()
    for question in questions:
        path(*question)
    parts = torch.stack([path(*ends).flatten() for ends in ((14.0, 9.0), (9.0, 3.0), (3.0, 0.5), (0.5, 0.05))])
    assert (parts.mean(1).abs() < 0.034).all() and (parts.std(1) - 1).abs().max() < 0.024
    assert (torch.corrcoef(parts) - torch.eye(4)).abs().max() < 0.045
    whole = sum(math.sqrt(a - b) * path(a, b) for a, b in ((14.0, 9.0), (9.0, 3.0), (3.0, 0.5)))
    assert (whole - math.sqrt(13.5) * path(14.0, 0.5)).abs().max() < 1e-5
    assert torch.equal(path(3.0, 9.0), -path(9.0, 3.0))


def test_intervals_that_do_not_overlap_are_plain_noise():
    path, drawn = increments((4, 5)), []
    for sigma, lower in ((14.0, 9.0), (9.0, 3.0), (3.0, 0.5)):
        drawn.append(path(sigma, lower))
    plain = Noise((4, 5), "step/increments/0")
    assert all(torch.equal(each, -plain(each)) for each in drawn)


def test_increments_do_not_depend_on_the_neighbours_and_two_paths_are_two():
    together, alone = increments((4, 5)), increments((5,))
    assert torch.equal(together(9.0, 3.0)[1:], alone(9.0, 3.0))
    noise, x = Noise((1,)), torch.zeros(1, 1, 120, 120)
    streams = [noise(x), noise.increments(x)(9.0, 3.0), noise.increments(x)(9.0, 3.0)]
    assert (torch.corrcoef(torch.stack([each.flatten() for each in streams])) - torch.eye(3)).abs().max() < 0.045
