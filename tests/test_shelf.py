"""Samplers that are other samplers under another name, as docs/samplers.md says, and what else each of the shelf is."""

import re

import pytest
import torch
from conftest import ROOT, toy
from oracles import end, mixture, normal, sampler, schedule, sd
from test_guidances import denoiser

from samplers.guidance import PLAIN_CFG
from samplers.noise import Noise
from samplers.testing import GaussianDenoiser
from webui.core.request import Request, RequestError
from webui.core.resolved_request import resolve

TABLE = (ROOT / "docs" / "samplers.md").read_text("utf-8").split("## Which name is which formula")[1]
SAME = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", TABLE, re.MULTILINE)
SHAPE = (2, 2, 4, 6)


def named(text):
    """(sampler, options) of "RES 2S: middle=1, eta=0"."""
    name, _, rest = text.partition(": ")
    options = dict(each.split("=") for each in rest.split(", ")) if rest else {}
    return sampler(name), options


def typed(item, options):
    kinds = {option.name: type(option.default) for option in item.options}
    return {name: kinds[name](value) for name, value in options.items()}


@pytest.mark.parametrize("one, other", SAME)
def test_names_of_one_formula_draw_the_same(one, other):
    ends = []
    for text in (one, other):
        item, options = named(text)
        x, grid = 14.6 * normal(*SHAPE), schedule("Karras")(sd(), 6)
        ends.append(end(item, mixture(SHAPE[1:]), x, grid, Noise((1, 2)), **typed(item, options)))
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


def test_the_table_has_the_famous_ones():
    assert len(SAME) >= 8 and any("RES multistep" in one for one, _ in SAME)


@pytest.mark.parametrize("name", ["Euler CFG++", "DPM++ 2M CFG++"])
def test_the_noise_of_cfg_plus_plus_is_the_unconditional_one(name):
    x, grid = 10 * normal(*SHAPE), (10.0, 4.0)
    denoise = denoiser(PLAIN_CFG, scale=5.0)
    guided, _, unconditional = denoise.parts(x, 10.0)
    aim = unconditional + 0.08 * (guided - unconditional)
    made = end(sampler(name), denoise, x, grid, Noise((1, 2)))
    torch.testing.assert_close(made, aim + 0.4 * (x - unconditional))


def test_dpm_cfg_plus_plus_without_guidance_is_dpm():
    x, grid = 10 * normal(*SHAPE), (10.0, 4.0, 1.0, 0.3, 0.0)
    ends = [end(sampler(f"DPM++ 2M{cfg}"), mixture(SHAPE[1:]), x, grid, Noise((1, 2))) for cfg in ("", " CFG++")]
    torch.testing.assert_close(*ends)


def test_tcd_goes_below_the_next_level_and_noise_lifts_it_back():
    x, gamma, grid = 10 * normal(*SHAPE), 0.3, (10.0, 4.0)
    exact, model = mixture(SHAPE[1:]), sd()
    below = model.sigma(int(0.7 * model.timestep(4.0)))
    made = end(sampler("TCD"), exact, x, grid, Noise((1, 2)), gamma=gamma)
    denoised = exact(x, 10.0)
    fresh = (16.0 - below**2) ** 0.5 * Noise((1, 2))(x)
    torch.testing.assert_close(made, denoised + below / 10.0 * (x - denoised) + fresh)


def test_smea_dy_asks_at_two_other_sizes_and_no_mask_fits_it(registry):
    sizes = []

    def denoise(x, sigma):
        sizes.append(tuple(x.shape[-2:]))
        return GaussianDenoiser()(x, sigma)

    end(sampler("Euler SMEA Dy"), denoise, 10 * normal(1, 1, 8, 12), (10.0, 4.0, 1.0, 0.0), Noise((1,)))
    assert sizes == [(8, 12), (10, 15), (8, 12), (4, 6), (8, 12)]
    masked = Request(mode="img2img", image="a.png", mask="b.png", sampler="Euler SMEA Dy")
    with pytest.raises(RequestError, match="asks the network at other sizes, which no mask fits"):
        resolve(masked, registry, {"toy": toy()})


@pytest.mark.parametrize("name", ["SEEDS-3", "SA-Solver", "RES 2S"])
def test_the_sde_has_the_right_moments_in_few_steps(name):
    exact = GaussianDenoiser(0.3, 0.7)
    options = {"eta": 1.0} if name == "RES 2S" else {}
    x = 0.3 + (0.49 + 14.6**2) ** 0.5 * normal(1, 1, 64, 64)
    made = end(sampler(name), exact, x, schedule("Exponential")(sd(), 30), Noise((3,)), **options)
    assert made.std().item() == pytest.approx(0.7, rel=0.05) and made.mean().item() == pytest.approx(0.3, abs=0.06)
