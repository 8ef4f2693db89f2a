"""Features that are used again: a whole call is the UNet's own, an outer call the same where nothing has changed."""

from functools import partial

import pytest
import torch
from conftest import ROOT

from samplers.run import plan, run
from webui.core.request import Request, RequestError
from webui.replay_command import replay_file
from weights.feature_reuse import ReusingUNet


@pytest.fixture
def unet(emoji):
    return emoji.network.unet


def inputs(unet, seed=0, images=2):
    random = torch.Generator().manual_seed(seed)
    sample = torch.randn(images, unet.config.in_channels, 8, 8, generator=random)
    return sample, torch.randn(images, 32, unet.config.cross_attention_dim, generator=random)


def blocks_called(unet, call):
    """How often the middle of the UNet computed during a call."""
    calls = []
    hook = unet.mid_block.register_forward_hook(lambda *given: calls.append(1))
    try:
        return call().sample, len(calls)
    finally:
        hook.remove()


@torch.no_grad()
def test_one_call_in_so_many_is_whole_and_the_others_see_the_new_state(unet):
    reusing = ReusingUNet(unet, 3)
    sample, words = inputs(unet)
    deep = []
    for i, time in enumerate((900.0, 880.0, 860.0, 840.0)):
        given = sample + i, torch.tensor([time]), words
        said, count = blocks_called(unet, partial(reusing, *given))
        deep.append(count)
        own = unet(*given).sample
        assert torch.equal(said, own) == bool(count)
    assert deep == [1, 0, 0, 1]


@torch.no_grad()
def test_an_outer_call_is_the_whole_one_where_the_deep_features_are_its_own(unet):
    sample, words = inputs(unet)
    reusing = ReusingUNet(unet, 2)
    # The same state under a timestep that is lower by what float32 cannot tell apart in the embedding.
    first = reusing(sample, torch.tensor([500.0]), words).sample
    again, count = blocks_called(unet, lambda: reusing(sample, torch.tensor([500.0 - 3e-5]), words))
    assert count == 0
    torch.testing.assert_close(again, first, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_another_condition_another_size_and_a_step_back_begin_anew(unet):
    reusing = ReusingUNet(unet, 5)
    sample, words = inputs(unet)
    larger = torch.randn(2, sample.shape[1], 8, 16)

    def counted(sample, time, words):
        return blocks_called(unet, lambda: reusing(sample, torch.tensor([time]), words))[1]

    assert counted(sample, 900.0, words) == 1 and counted(sample, 890.0, words) == 0
    assert counted(sample, 890.0, words + 1) == 1 and counted(larger, 890.0, words) == 1
    assert counted(sample, 880.0, words) == 0, "each goes on where it was"
    assert counted(sample, 880.0, words) == 1 and counted(sample, 950.0, words) == 1
    reusing.forget()
    assert counted(sample, 100.0, words) == 1


@torch.no_grad()
@pytest.mark.parametrize("name", ["Euler", "DPM++ 2M"])
def test_pictures_together_are_those_alone_and_a_run_repeats_to_the_bit(emoji, registry, name):
    steps = plan(emoji.schedule, registry.sampler(name).item, registry.schedule("Karras").item, 6)
    zeros = torch.zeros(2, *emoji.latents_shape(64, 64))
    denoise = emoji.denoiser("rocket", "", 3.0, feature_reuse=2)
    both = run(steps, denoise, zeros, [1, 2]).x
    assert torch.equal(run(steps, denoise, zeros, [1, 2]).x, both)
    alone = torch.cat([run(steps, denoise, zeros[:1], [seed]).x for seed in (1, 2)])
    torch.testing.assert_close(both, alone, rtol=1e-3, atol=1e-3)
    if name == "Euler":
        whole = run(steps, emoji.denoiser("rocket", "", 3.0), zeros, [1, 2]).x
        assert 1e-3 < (both - whole).square().mean().sqrt() < 0.3


def test_a_lora_acts_in_whole_and_in_outer_calls(emoji):
    prompt = "rocket <lora:blueprint>"
    x = torch.randn(1, *emoji.latents_shape(64, 64), generator=torch.Generator().manual_seed(0))
    styled, plain = (emoji.denoiser(text, "", 1.0, feature_reuse=2) for text in (prompt, "rocket"))
    whole = [denoise(4 * x, 4.0) for denoise in (styled, plain)]
    outer = [denoise(3.9 * x, 3.9) for denoise in (styled, plain)]
    assert (whole[0] - whole[1]).abs().mean() > 0.01 and (outer[0] - outer[1]).abs().mean() > 0.01


def test_a_faster_backend_leaves_such_pictures_to_torch(emoji):
    class Backend:
        name, dtype, decode = "openvino", "float32", None

    faster = emoji.computed_by(Backend())
    assert faster.able_to_draw("rocket") is faster
    assert faster.able_to_draw("rocket", 2) is emoji
    assert faster.identity_for("rocket").backend == "openvino"
    assert faster.identity_for("rocket", feature_reuse=2) == emoji.identity


def test_the_picture_says_it_and_replays_to_the_bit(real, tmp_path):
    job = real.submit(Request(prompt="rocket", seed=3, steps=4, feature_reuse=2))
    job.wait(60)
    path = job.pictures[0].path
    assert replay_file(real, path).equal


def test_tiles_have_features_each(real, tmp_path):
    asked = Request(mode="img2img", image=ROOT / "docs" / "vary.png", scale=2.0, feature_reuse=2, prompt="rocket")
    with pytest.raises(RequestError, match="Feature reuse is for a picture that is drawn whole, not in tiles"):
        real.resolve(asked)
    assert real.resolve(asked.model_copy(update={"feature_reuse": 1})).request.is_tiled
