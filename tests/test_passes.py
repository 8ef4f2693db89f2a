"""The seams of a run: passes one after another, and a denoiser that is a stack of wrappers."""

import pytest
import torch
from oracles import builtin, normal, sampler, schedule, sd

from samplers.noise import Noise
from samplers.run import Pass, plan, run, run_passes
from samplers.testing import GaussianDenoiser
from samplers.wrappers import Counted, SoftlyMasked

SHAPE = (2, 3, 8, 8)
LEFT = (torch.arange(8) < 4).double().expand(1, 1, 8, 8)  # 1 is kept


def planned(name: str = "Euler", steps: int = 6, strength: float = 1.0):
    return plan(sd(), sampler(name), schedule("Karras"), steps, strength=strength)


def enlarged(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")


def test_a_second_pass_works_on_the_enlarged_result_of_the_first(emoji):
    """Hires fix: twice the size, begun in the middle of the noise, in one call."""
    levels = emoji.schedule
    make = lambda strength: plan(levels, sampler("DPM++ 2M"), schedule("Karras"), 6, strength=strength)  # noqa: E731
    zeros = torch.zeros(1, *emoji.latents_shape(64, 64))
    passes = [Pass(make(1.0), zeros), Pass(make(0.5), enlarged)]
    counted = Counted(emoji.denoiser("red apple", guidance=3.0), 1)
    with torch.no_grad():
        first, second = run_passes(passes, counted, [5])
    assert second.x.shape == (1, *emoji.latents_shape(128, 128))
    assert counted.calls == 6 + 3
    # The picture stays what it was: the same large shapes, drawn anew in detail.
    alike = torch.corrcoef(torch.stack([enlarged(first.x).flatten(), second.x.flatten()]))[0, 1]
    assert alike > 0.5


def test_the_first_pass_is_the_run_of_one_pass():
    zeros, denoise = torch.zeros(SHAPE, dtype=torch.float64), GaussianDenoiser()
    alone = run(planned("DDPM"), denoise, zeros, [1, 2])
    first, second = run_passes([Pass(planned("DDPM"), zeros), Pass(planned("DDPM"), torch.zeros_like)], denoise, [1, 2])
    assert torch.equal(first.x, alone.x)
    assert not torch.equal(second.x, alone.x)


def test_a_later_pass_has_streams_of_its_own():
    passes = [Pass(planned(strength=0.5), torch.zeros(SHAPE)), Pass(planned(strength=0.5), torch.zeros_like)]
    starts = []

    def denoise(x, sigma):
        if sigma == passes[0].plan.sigmas[0]:
            starts.append(x / sigma)
        return torch.zeros_like(x)

    run_passes(passes, denoise, [1, 2])
    for start, purpose in zip(starts, ["initial", "pass 2/initial"], strict=True):
        torch.testing.assert_close(start, Noise([1, 2], purpose)(start))


def test_the_first_pass_cannot_start_from_one_before_it():
    with pytest.raises(ValueError, match="the first pass has to start from latents"):
        run_passes([Pass(planned(), enlarged)], GaussianDenoiser(), [1])


#: Those that ask the network at other sizes are refused beside a mask.
OF_ONE_SIZE = [name for name, entry in builtin().samplers.items() if not entry.item.resizes]


@pytest.mark.parametrize("name", OF_ONE_SIZE)
def test_every_sampler_keeps_the_masked_half(name):
    clean = normal(1, *SHAPE[1:], seed=3)
    made = planned(name, 8)
    denoise = SoftlyMasked(GaussianDenoiser(0.3, 0.5), clean, 1 - LEFT, made.sigmas[0])
    end = run(made, denoise, clean.repeat(2, 1, 1, 1), [1, 2]).x
    kept = LEFT.expand(SHAPE).bool()
    assert (end - clean)[kept].abs().max() < 1e-3
    assert (end - clean)[~kept].abs().max() > 0.1


@pytest.mark.parametrize("mask, free_below", [(0.0, 0.0), (0.5, 1.0), (1.0, 20.0)])
def test_a_latent_is_free_once_the_noise_is_below_its_mask(mask, free_below):
    """t = sigma / (1 + sigma): a run from infinity has half of it left at sigma 1."""
    x, clean = normal(*SHAPE, seed=1), normal(1, *SHAPE[1:], seed=2)
    soft = SoftlyMasked(GaussianDenoiser(), clean, torch.full((1, 1, 1, 1), mask), 1e9)
    for sigma in (20.0, 1.001, 0.999, 0.1):
        free = sigma < free_below or mask == 1
        expected = GaussianDenoiser()(x, sigma) if free else clean.expand_as(x)
        assert torch.equal(soft(x, sigma), expected)


def test_a_mask_of_zeros_and_ones_mixes_the_picture_with_the_estimate_at_every_level():
    x, clean = normal(*SHAPE, seed=1), normal(1, *SHAPE[1:], seed=2)
    masked = SoftlyMasked(GaussianDenoiser(), clean, 1 - LEFT, 9.0)
    # Some samplers ask above their start.
    for sigma in (12.0, 9.0, 0.5, 0.01):
        torch.testing.assert_close(masked(x, sigma), LEFT * clean + (1 - LEFT) * GaussianDenoiser()(x, sigma))


def test_the_emoji_model_draws_half_a_picture_anew(emoji):
    clean = torch.zeros(1, *emoji.latents_shape(64, 64))
    mask = torch.nn.functional.interpolate(LEFT.float(), size=clean.shape[2:], mode="nearest")
    made = plan(emoji.schedule, sampler("Euler"), schedule("Karras"), 6)
    denoise = SoftlyMasked(emoji.denoiser("red apple", guidance=3.0), clean, 1 - mask, made.sigmas[0])
    with torch.no_grad():
        end = run(made, denoise, clean, [5]).x
    kept = mask.expand(end.shape).bool()
    assert (end - clean)[kept].abs().max() < 1e-3
    assert (end - clean)[~kept].std() > 0.3
