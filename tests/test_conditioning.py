"""Guidance rescale and interval, clip skip, chunks of several lengths: in denoiser, request and metadata."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import ToyModel, toy
from oracles import guided, states
from PIL import Image

from samplers.guidance import Interval, rescale_guided
from samplers.schedule import stable_diffusion
from webui.api.script_api import Api, ApiResult
from webui.core.limits import LOCAL
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError, read
from webui.engine.engine import Engine
from webui.settings import Settings
from webui.tabs.form.form_state import recall

SHAPE = (3, 4, 8, 8)


class Network:
    """A network whose output tells which condition it was given; it remembers its batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, scaled, timestep, condition):
        self.batches.append((len(scaled), condition.shape[1]))
        return scaled * condition.mean((1, 2))[:, None, None, None] + torch.sin(3 * scaled) * condition.shape[1]


def make(network, positive=77, negative=77, **options):
    conditions = torch.full((1, positive, 8), 0.7), torch.full((1, negative, 8), -0.4)
    return guided(network, stable_diffusion(), "epsilon", *conditions, **options)


@pytest.fixture
def x():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * 3


def test_rescaling_is_diffusers(x):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    cond = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    for share in (0.0, 0.3, 0.7, 1.0):
        torch.testing.assert_close(rescale_guided(x, cond, share), rescale_noise_cfg(x, cond, share))


def test_a_full_rescale_has_the_spread_of_the_conditional_output(x):
    network = Network()
    both = make(network, scale=9.0, rescale=1.0)
    plain = make(network, scale=1.0)
    sigma = 2.0
    spread = [((x - denoise(x, sigma)) / sigma).std((1, 2, 3)) for denoise in (both, plain)]
    torch.testing.assert_close(*spread)
    assert not torch.equal(both(x, sigma), plain(x, sigma))
    assert torch.equal(make(network, scale=9.0, rescale=0.0)(x, sigma), make(network, scale=9.0)(x, sigma))


@pytest.mark.parametrize("sigma, guided", [(0.5, False), (1.0, False), (1.001, True), (5.0, True), (5.001, False)])
def test_guidance_counts_within_its_interval_and_costs_nothing_outside(x, sigma, guided):
    network = Network()
    value = make(network, scale=6.0, interval=Interval(1.0, 5.0))(x, sigma)
    assert network.batches == [(6 if guided else 3, 77)]
    assert torch.equal(value, make(network, scale=6.0 if guided else 1.0)(x, sigma))


def test_without_an_interval_all_levels_are_guided(x):
    network = Network()
    for sigma in (1e-4, 14.6, 1e5):
        make(network, scale=6.0)(x, sigma)
    assert network.batches == [(6, 77)] * 3


def test_prompts_of_different_lengths_are_asked_apart_and_not_padded(x):
    network = Network()
    long = make(network, positive=154, scale=4.0)(x, 2.0)
    assert network.batches == [(3, 77), (3, 154)]
    cond, uncond = make(network, positive=154)(x, 2.0), make(network, negative=77, scale=0.0)(x, 2.0)
    torch.testing.assert_close(long, uncond + 4.0 * (cond - uncond))


class TestRequest:
    @pytest.mark.parametrize(
        "name, value, allowed",
        [
            ("clip_skip", 0, "Clip skip must be a whole number from 1"),
            ("clip_skip", 13, "to 12"),
            ("clip_skip", True, "Clip skip must be"),
            ("guidance_rescale", 1.1, "Guidance rescale must be a number from 0 to 1"),
            ("guidance_low", -1, "Guidance low must be a sigma"),
            ("guidance_high", math.nan, "Guidance high must be a sigma, a number from 0 on, where 0 is no upper end"),
        ],
    )
    def test_wrong_values_say_what_is_allowed(self, name, value, allowed):
        with pytest.raises(RequestError, match=allowed):
            read({name: value})

    def test_off_is_the_default(self):
        assert Request().conditioning == dict(
            clip_skip=1,
            guidance_rescale=0.0,
            guidance_low=0.0,
            guidance_high=0.0,
            prompt_syntax="full",
            size_condition=(0, 0, 0, 0),
            feature_reuse=1,
        )

    def test_a_browsers_wrong_values_fall_back_alone(self, registry):
        saved = dict(model="toy", clip_skip=2, guidance_rescale=7, guidance_low=0.5, guidance_high="x")
        values = recall(saved, registry, {"toy": toy()}, LOCAL)
        assert [values[name] for name in saved if name != "model"] == [2, 0.0, 0.5, 0.0]


class Asked(ToyModel):
    """A toy model that remembers how its prompts were to be read."""

    def denoiser(self, *prompts, **conditioning):
        self.asked = conditioning
        return super().denoiser(*prompts)


@pytest.fixture
def engine(registry, tmp_path):
    model = Asked(toy())
    settings = Settings(root=tmp_path, outputs=tmp_path / "outputs", model="toy")
    engine = Engine(registry, settings, lambda info, device: model, lambda folder: {"toy": toy()})
    engine.model = model
    engine.start()
    yield engine
    engine.close()


def last(events):
    *_, result = events
    assert isinstance(result, ApiResult)
    return result


GIVEN = dict(clip_skip=2, guidance_rescale=0.7, guidance_low=0.3, guidance_high=5.0)


@pytest.mark.parametrize("mode", ["txt2img", "img2img"])
def test_scripts_can_give_them_and_the_picture_remembers(engine, tmp_path, mode):
    Image.new("RGB", (64, 64)).save(tmp_path / "in.png")
    api = Api(engine)
    call = api.txt2img if mode == "txt2img" else lambda prompt, **more: api.img2img(tmp_path / "in.png", prompt, **more)
    result = last(call("a cat", steps=2, seed=1, **GIVEN))
    assert {name: engine.model.asked[name] for name in GIVEN} == GIVEN
    assert {name: result.info[name] for name in GIVEN} == GIVEN
    carried = read_picture(result.files[0])
    assert {name: carried.record.data["request"][name] for name in GIVEN} == GIVEN
    assert "Clip skip: 2, Guidance rescale: 0.7, Guidance interval: 0.3-5" in carried.parameters


def test_what_is_off_is_not_in_the_text_for_other_programs(engine):
    text = read_picture(last(Api(engine).txt2img("a cat", steps=1)).files[0]).parameters
    assert "skip" not in text and "Guidance" not in text


def test_another_vae_is_part_of_what_a_picture_remembers(engine):
    engine.model.identity = replace(engine.model.identity, vae="abcdef0123")
    carried = read_picture(last(Api(engine).txt2img("a cat", steps=1)).files[0])
    assert carried.record.data["model"]["vae"] == "abcdef0123" and "VAE hash: abcdef0123" in carried.parameters


def test_an_empty_interval_is_refused(engine):
    with pytest.raises(RequestError, match="Guidance high is 2 and guidance low 3; high must be above low, or 0"):
        engine.submit(Request(guidance_low=3.0, guidance_high=2.0))


class TestModel:
    """On the embedded model."""

    def test_clip_skip_and_weights_change_the_prompt_and_only_that(self, emoji):
        plain, skipped = emoji.encode_prompt("red apple"), emoji.encode_prompt("red apple", 2)
        assert not torch.equal(states(emoji, "red apple"), states(emoji, "red apple", 2))
        assert plain.join(skipped) is not None
        assert emoji.encode_prompt("red apple") is plain and emoji.encode_prompt("red apple", 2) is skipped

    def test_a_layer_that_is_not_there_is_an_error(self, emoji):
        with pytest.raises(ValueError, match="clip skip is 3; the text encoder of model emoji allows 1 to 2"):
            emoji.denoiser("a", clip_skip=3)

    def test_arguments_reach_the_denoiser(self, emoji):
        made = emoji.denoiser("a", "b", 5.0, guidance_rescale=0.5, guidance_low=0.1)
        assert (made.guided.rescale, made.interval) == (0.5, Interval(0.1))
        assert emoji.denoiser("a", guidance=2.0, guidance_high=3.0).interval == Interval(0.0, 3.0)
