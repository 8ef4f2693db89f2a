"""A family of models is one class: a made-up one with two text encoders and a pooled vector draws like any other."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from samplers.run import plan, run
from samplers.schedule import flow
from weights.catalog import Catalog
from weights.condition import TensorCondition
from weights.families import FAMILIES, ConditionedNetwork, recognize_folder
from weights.module_part import Source, empty_part
from weights.opening import check_model, open_model

WIDTHS = {"text_encoder": 6, "text_encoder_2": 2}
CHANNELS = 4


class Words(torch.nn.Embedding):
    """A text encoder for words of up to four letters."""

    def __init__(self, width):
        super().__init__(5, width)


class Unet(torch.nn.Module):
    """Mixes the state with the text, word by word, and with the pooled vector."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.text, self.pooled = torch.nn.Linear(sum(WIDTHS.values()), CHANNELS), torch.nn.Linear(3, CHANNELS)
        self.config = SimpleNamespace(block_out_channels=[CHANNELS])

    def forward(self, x, at, text, pooled):
        told = self.text(text).mean(1) + self.pooled(pooled)
        return self.conv(x) * at / 1000 + told[:, :, None, None]


class Network(ConditionedNetwork):
    """The opened made-up model; it remembers the batches that it was asked for."""

    def __init__(self, unet, encoders, tokenize):
        self.unet, self.encoders, self.tokenize, self.batches = unet, encoders, tokenize, []

    def encode(self, prompt, clip_skip=1):
        tokens = torch.tensor([self.tokenize(prompt)])
        text = torch.cat([encoder(tokens) for encoder in self.encoders], -1)
        return TensorCondition({"text": text, "pooled": text.mean(1)[:, :3]})

    def count_tokens(self, prompt):
        return len(self.tokenize(prompt)), 75

    def inputs(self, scaled, timestep, condition):
        return {"x": scaled, "at": torch.tensor([timestep]), **condition.tensors}

    def step(self, inputs):
        self.batches.append(len(inputs["x"]))
        return self.unet(**inputs)


def made_up_vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, latent_channels=CHANNELS, **BLOCKS)


BLOCKS = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
MODULES = dict(unet=Unet, vae=made_up_vae) | {name: partial(Words, width) for name, width in WIDTHS.items()}


class Checkpoint:
    channels, factor, has_vae, prediction, zero_snr = CHANNELS, 2, True, "flow_prediction", False
    inpaints = takes_guidance = False

    def __init__(self, file):
        self.file = file

    def size(self, prediction):
        return 64

    def schedule(self, zero_snr):
        return flow()

    def takes_vae(self, file):
        return False

    def parts(self, vae):
        return {name: empty_part(make, self.file, partial(self.source, name)) for name, make in MODULES.items()}

    def source(self, part, name):
        return Source(f"made_up.{part}.{name}")

    def tokenizers(self):
        return {"tokenizer": lambda text: [min(len(word), 4) for word in text.split()] or [0]}


class MadeUp:
    components = FAMILIES[0].components | {
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
    }

    def recognize(self, file):
        return Checkpoint(file) if "made_up.unet.conv.weight" in file.shapes else None

    def build(self, name, components, device):
        encoders = [components[name] for name in WIDTHS]
        return Network(components["unet"], encoders, components["tokenizer"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a checkpoint of the made-up family, of random weights."""
    torch.manual_seed(0)
    tensors = {f"made_up.{part}.{n}": t for part, make in MODULES.items() for n, t in make().state_dict().items()}
    folder = tmp_path_factory.mktemp("weights")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "a.safetensors")
    return folder


@pytest.fixture
def model(folder):
    families = (MadeUp(), *FAMILIES)
    info = Catalog(families).find_models(folder)["a"]
    check_model(info, families)
    return open_model(info, "cpu", families=families)


def draw(model, registry, prompt, negative="", guidance=3.0, seeds=(1, 2)):
    euler, schedule = registry.sampler("Euler").item, registry.schedule("Uniform trailing").item
    ready = plan(model.schedule, euler, schedule, 3)
    start = torch.zeros(len(seeds), *model.latents_shape(16, 16))
    return run(ready, model.denoiser(prompt, negative, guidance), start, seeds).x


def test_without_its_family_a_file_is_refused(folder):
    assert Catalog().find_models(folder) == {}
    assert "a.safetensors looks like something else" in Catalog().problems(folder)["a"]


def test_its_facts_are_those_of_the_family(model):
    assert (model.info.prediction, model.info.channels, model.info.defaults.size) == ("flow_prediction", CHANNELS, 64)
    assert model.schedule.flow
    assert len(model.identity.weights) == 10


def test_it_draws_with_every_part_of_its_condition(model, registry):
    x = draw(model, registry, "a cat", "no dog")
    # Prompts of equal length are joined into one call for two images.
    assert model.network.batches == [4, 4, 4]
    (picture, _) = model.decode(x)
    assert picture.size == (16, 16)
    assert not torch.equal(x, draw(model, registry, "a bird", "no dog"))


def test_guidance_is_that_of_the_two_conditions(model, registry):
    model_words, model_none = (draw(model, registry, text, "no dog", guidance=1.0) for text in ("a cat", "no dog"))
    assert not torch.equal(model_words, model_none)
    assert torch.equal(model_none, draw(model, registry, "a cat", "no dog", guidance=0.0))


def test_prompts_of_different_lengths_are_not_joined(model, registry):
    draw(model, registry, "a very long cat", "dog")
    assert model.network.batches == [2] * 6


def test_an_image_of_a_batch_equals_the_image_alone(model, registry):
    both, alone = draw(model, registry, "a cat"), draw(model, registry, "a cat", seeds=(2,))
    torch.testing.assert_close(both[1:], alone)


def test_a_folder_belongs_to_the_family_with_the_most_of_its_components():
    families = (*FAMILIES, MadeUp())
    assert recognize_folder(FAMILIES[0].components, families) is FAMILIES[0]
    assert recognize_folder(MadeUp.components, families) is families[1]
    assert recognize_folder(["unet"], families) is FAMILIES[0]


def test_names_of_checkpoints_are_known_to_families_alone():
    names = ("model.diffusion_model", "first_stage_model", "cond_stage_model")
    for part in ("samplers", "weights", "webui"):
        for path in (ROOT / part).rglob("*.py"):
            if "families" not in path.parts:
                text = path.read_text("utf-8")
                assert not [name for name in names if name in text], path
