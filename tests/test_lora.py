"""LoRAs: what diffusers makes of the same files, nothing left behind, and names for what is wrong."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from loras import ALPHA, RANK, close, random
from PIL import Image
from safetensors.torch import save_file

from benchmarks.random_checkpoint import checkpoint, save
from samplers.noise import Noise
from samplers.run import plan, run
from webui.core.infotext import infotext
from webui.core.picture_metadata import read_picture
from webui.core.plugin_fields import PluginOrigins
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.jobs import Finished
from webui.replay_command import replay_file
from webui.settings import Settings
from webui.tabs.lab.cell_cache import key_of_record, key_of_request
from weights.extra_networks import ExtraNetworks
from weights.model_info import ModelError
from weights.opening import open_model
from weights.prompt_syntax import LoraTag, PromptError, lora_tags, without_tags
from weights.single_file import read_single


def layers(model, kinds=("attn", "ff.net", "mlp", "proj_in")):
    """(component, name, layer) of the layers that the LoRAs of these tests change."""
    for component, module in model.network.components.items():
        for name, layer in module.named_modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and any(kind in name for kind in kinds):
                yield component, name, layer


def kohya(model, seed=0, parts=("unet", "text_encoder"), **which) -> dict[str, torch.Tensor]:
    """A LoRA in kohya's names; convolutions make it a LoCon."""
    made = {}
    for component, name, layer in layers(model, **which):
        if component not in parts:
            continue
        prefix = "lora_unet_" if component == "unet" else "lora_te_text_model_"
        key = prefix + name.removeprefix("text_model.").replace(".", "_")
        outputs, inputs, *kernel = layer.weight.shape
        made |= {
            f"{key}.lora_down.weight": random(RANK, inputs, *kernel, seed=seed),
            f"{key}.lora_up.weight": random(outputs, RANK, *[1] * len(kernel), seed=seed + 1),
            f"{key}.alpha": torch.tensor(ALPHA),
        }
    return made


def diffusers_names(model, form: str) -> dict[str, torch.Tensor]:
    """A LoRA in diffusers' first names or in PEFT's, which tell no alpha; "dora" is PEFT's with lengths of rows."""
    made = {}
    for component, name, layer in layers(model):
        name = name.removeprefix("text_model.")
        key = f"unet.{name}" if component == "unet" else f"text_encoder.text_model.{name}"
        down, up = "lora_A", "lora_B"
        if form == "diffusers":
            end = "lora_linear_layer" if component == "text_encoder" else "lora"
            key = re.sub(r"(attn\d)\.(to_\w+)(\.0)?$", r"\1.processor.\2", key)
            down, up = (f"_{end}.{side}" if "processor" in key else f".{end}.{side}" for side in ("down", "up"))
        outputs, inputs, *kernel = layer.weight.shape
        dot = "." if form != "diffusers" else ""
        made[f"{key}{dot}{down}.weight"] = random(RANK, inputs, *kernel)
        made[f"{key}{dot}{up}.weight"] = random(outputs, RANK, *[1] * len(kernel), seed=1)
        if form == "dora":
            made[f"{key}.lora_magnitude_vector.weight"] = lengths(layer)
    return made


def lengths(layer) -> torch.Tensor:
    """Of the rows of a weight, made longer, in the shape that PEFT gives them."""
    longer = layer.weight.flatten(1).norm(dim=1) * (1 + random(len(layer.weight)).abs())
    return longer.reshape(1, -1, 1, 1) if layer.weight.dim() == 4 else longer


def shelve(model, tmp_path, **files) -> None:
    (tmp_path / "loras").mkdir(parents=True, exist_ok=True)
    for name, tensors in files.items():
        save_file(
            {key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "loras" / f"{name}.safetensors"
        )
    model.extra = ExtraNetworks(tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Stable Diffusion 1's parts and names at a small width, from a single file."""
    path = save(tmp_path_factory.mktemp("weights") / "mini.safetensors", checkpoint(1, seed=1))
    return open_model(read_single(path), "cpu")


@pytest.fixture
def model(request):
    model = copy.copy(request.getfixturevalue(request.param))
    model._patched = None
    return model


def outputs(model, prompt: str, clean: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The text encoder's and the UNet's output under the LoRAs that a prompt names."""
    patched = model.for_prompt(prompt)
    text = patched.encode_prompt(clean).tensors["text"]
    x = random(1, model.info.channels, 16, 16, seed=5) * 5
    return text, patched.network(x, 400.0, patched.encode_prompt(clean))


def pipeline(model, files: dict, strengths: dict):
    """diffusers' pipeline of copies of the modules, with LoRAs by its loaders; strengths are (text encoder, UNet)."""
    peft = pytest.importorskip("peft")  # diffusers loads LoRAs through it
    assert peft
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    network = model.network
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    unet, encoder = copy.deepcopy(network.unet), copy.deepcopy(network.prompts.encoder)
    pipe = StableDiffusionPipeline(
        model.vae.module, encoder, network.prompts.tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    for name, tensors in files.items():
        pipe.load_lora_weights({key: tensor.clone() for key, tensor in tensors.items()}, adapter_name=name)
    pipe.set_adapters(list(strengths), [dict(text_encoder=text, unet=steps) for text, steps in strengths.values()])
    return pipe


def theirs(model, files: dict, strengths: dict, clean: str) -> tuple[torch.Tensor, torch.Tensor]:
    """As `outputs`, by diffusers."""
    pipe = pipeline(model, files, strengths)
    ids = pipe.tokenizer(clean, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        text = pipe.text_encoder(ids)[0]
        x = random(1, model.info.channels, 16, 16, seed=5) * 5
        return text, pipe.unet(x, torch.tensor([400.0]), encoder_hidden_states=text).sample


FORMS = ["kohya", "locon", "dora", "diffusers", "peft"]


# Every kind on one model; the other has other names, of which two kinds are enough.
@pytest.mark.parametrize(
    "model, form", [*(("small", form) for form in FORMS), ("emoji", "kohya"), ("emoji", "peft")], indirect=["model"]
)
def test_the_outputs_are_those_of_diffusers_loader(model, tmp_path, form):
    strength = {"kohya": 0.5, "locon": -1.0, "dora": 0.9}.get(form, 0.8)
    tensors = {
        "kohya": lambda: kohya(model),
        "locon": lambda: kohya(model, kinds=("attn", "conv1", "conv2", "proj_out")),
        "dora": lambda: diffusers_names(model, "dora"),
        "diffusers": lambda: diffusers_names(model, "diffusers"),
        "peft": lambda: diffusers_names(model, "peft"),
    }[form]()
    shelve(model, tmp_path, one=tensors)
    plain = outputs(model, "red apple", "red apple")
    mine = outputs(model, f"red apple <lora:one:{strength}>", "red apple")
    close(mine, theirs(model, {"one": tensors}, {"one": (strength, strength)}, "red apple"))
    assert (mine[1] - plain[1]).abs().max() > 1e-3
    for before, after in zip(plain, outputs(model, "red apple", "red apple"), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("model", ["emoji", "small"], indirect=True)
def test_a_run_ends_in_the_latents_of_diffusers_pipeline_with_the_same_two(model, registry, tmp_path):
    files = dict(one=kohya(model), two=kohya(model, seed=7, kinds=("attn2", "conv1")))
    shelve(model, tmp_path, **files)
    ready = plan(model.schedule, registry.sampler("DDIM").item, registry.schedule("Uniform leading").item, 2)
    zeros = torch.zeros(1, *model.latents_shape(64, 64))
    start = ready.sigmas[0] * Noise((1,), "initial")(zeros) / math.sqrt(1 + ready.sigmas[0] ** 2)
    mine = run(ready, model.denoiser("red apple <lora:one:0.5> <lora:two:0.1:-1>", "blue", 5.0), zeros, (1,)).x
    pipe = pipeline(model, files, dict(one=(0.5, 0.5), two=(0.1, -1.0)))
    told = dict(num_inference_steps=2, guidance_scale=5.0, width=64, height=64, latents=start, output_type="latent")
    close([mine], [pipe("red apple", negative_prompt="blue", **told).images])


def test_two_at_once_and_text_encoder_and_unet_apart(small, tmp_path):
    model = copy.copy(small)
    files = dict(one=kohya(model), two=kohya(model, seed=7, kinds=("attn2", "conv1")))
    shelve(model, tmp_path, **files)
    mine = outputs(model, "<lora:one:0.5:-1> cat <lora:two:0:0.7>", "cat")
    close(mine, theirs(model, files, dict(one=(0.5, -1.0), two=(0.0, 0.7)), "cat"))


class TestNames:
    def test_tags_are_read_and_are_no_words(self):
        text = "a <lora:x:0.8>cat <lora:sub/y.v2> <lora:z:0.25:-1>"
        assert [(tag.name, tag.text, tag.unet) for tag in lora_tags(text)] == [
            ("x", 0.8, 0.8),
            ("sub/y.v2", 1.0, 1.0),
            ("z", 0.25, -1.0),
        ]
        assert without_tags(text) == "a cat  "
        assert "".join(map(str, lora_tags(text))) == "<lora:x:0.8><lora:sub/y.v2:1><lora:z:0.25:-1>"

    @pytest.mark.parametrize(
        "text",
        [
            "<lora:>",
            "<lora:x:y>",
            "<lora:x:1:2:3>",
            "<lora:x:99>",
            "<lora:x:nan>",
            "<lora:x><lora:x>",
            "<hypernet:x:1>",
        ],
    )
    def test_what_is_no_tag_is_an_error(self, text):
        with pytest.raises(PromptError, match="<lora:|once"):
            lora_tags(text)

    def test_files_are_found_below_the_folder_and_beside_models(self, emoji, tmp_path):
        model = copy.copy(emoji)
        shelve(model, tmp_path, one=kohya(model, parts=("text_encoder",)))
        (tmp_path / "loras" / "sub").mkdir()
        data = (tmp_path / "loras" / "one.safetensors").read_bytes()
        for place in (
            "loras/sub/one.safetensors",
            "loras/sub/TWO.SAFETENSORS",
            "beside.safetensors",
            "loras/._one.safetensors",
        ):
            (tmp_path / place).write_bytes(data)
        save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
        assert list(model.extra.loras()) == ["beside", "one", "sub/one", "TWO"]
        assert not model.extra.problems()
        with pytest.raises(ModelError, match="'three' is not in weights/loras/; there is beside, one"):
            model.for_prompt("<lora:three>")

    def test_those_of_hugging_faces_cache_are_called_as_their_repositories(self, emoji, tmp_path):
        model = copy.copy(emoji)
        shelve(model, tmp_path, red=kohya(model, parts=("text_encoder",)))
        data = (tmp_path / "loras" / "red.safetensors").read_bytes()
        places = [
            tmp_path / "loras" / folder / "pytorch_lora_weights.safetensors"
            for folder in (
                "models--a--blue/snapshots/f0",
                "models--b--blue/snapshots/f1",
                "models--c--red/snapshots/f2",
            )
        ]
        for place in places:
            place.parent.mkdir(parents=True)
            place.write_bytes(data)
        second, third = "models--b--blue/snapshots/f1/pytorch", "models--c--red/snapshots/f2/pytorch"
        names = ["blue", f"{second}_lora_weights", f"{third}_lora_weights", "red"]
        assert list(model.extra.loras()) == names
        assert [model.extra.find(name).path for name in names[:3]] == places
        # As pictures say that were made when all had the names of their files.
        assert model.extra.find("pytorch_lora_weights").path == places[0]

    def test_a_patched_model_has_its_own_identity(self, emoji, tmp_path):
        model = copy.copy(emoji)
        shelve(model, tmp_path, one=kohya(model, parts=("text_encoder",)))
        plain, weak, strong = (model.identity_for(text) for text in ("a", "a <lora:one:0.5>", "a <lora:one>"))
        assert plain == emoji.identity and len({each.digest for each in (plain, weak, strong)}) == 3
        assert model.for_prompt("<lora:one:0.5> b").identity == weak
        shelve(model, tmp_path, one=kohya(model, seed=9, parts=("text_encoder",)))
        assert model.identity_for("a <lora:one:0.5>") != weak


Q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
GOOD = {f"{Q}.lora_down.weight": torch.ones(2, 192), f"{Q}.lora_up.weight": torch.ones(128, 2)}
DOWN, UP = f"{Q}.lora_down.weight", f"{Q}.lora_up.weight"
TE2 = "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_"
FLUX = "lora_unet_double_blocks_0_img_attn_qkv.lora_"
WRONG = {
    "of SDXL": ({DOWN: torch.ones(2, 2048), UP: torch.ones(640, 2)}, "made for Stable Diffusion XL"),
    "of SD 2": ({DOWN: torch.ones(2, 1024), UP: torch.ones(320, 2)}, "made for Stable Diffusion 2"),
    "of Flux": ({f"{FLUX}{end}.weight": torch.ones(2, 2) for end in ("down", "up")}, "made for Flux"),
    "two encoders": (GOOD | {f"{TE2}{end}.weight": torch.ones(2, 2) for end in ("down", "up")}, "XL"),
    "half a layer": ({UP: torch.ones(128, 2)}, "not complete"),
    "other ranks": (GOOD | {UP: torch.ones(128, 3)}, "shapes"),
    "no such layer": ({key.replace("blocks_1", "blocks_9"): tensor for key, tensor in GOOD.items()}, "not there"),
    "not finite": (GOOD | {UP: torch.full((128, 2), torch.nan)}, "finite"),
    "whole numbers": (GOOD | {UP: torch.ones(128, 2, dtype=torch.int8)}, "int8"),
    "an alpha of two": (GOOD | {f"{Q}.alpha": torch.ones(2)}, "one number"),
    "OFT and another": (GOOD | {f"{Q}.oft_blocks": torch.ones(2, 2, 2)}, "not complete"),
    "OFT of no squares": ({f"{Q}.oft_blocks": torch.ones(2, 64, 2)}, "square blocks"),
    "OFT of other widths": ({f"{Q}.oft_blocks": torch.ones(2, 32, 32)}, "shapes"),
    "OFT of PEFT": ({f"base_model.model.{Q}.oft_R.weight": torch.ones(2, 2)}, "PEFT's OFT.*take a LoRA"),
    "BOFT of PEFT": ({f"base_model.model.{Q}.boft_R": torch.ones(2, 2)}, "PEFT's BOFT.*take a LoRA"),
    "half a GLoRA": (GOOD | {f"{Q}.a1.weight": torch.ones(2, 2)}, "not complete"),
    "GLoRA with a core": ({f"{Q}.bm.weight": torch.ones(2, 2)}, "GLoRA with a core.*take a LoRA"),
    "IA3": ({f"{Q}.weight": torch.ones(128), f"{Q}.on_input": torch.zeros(())}, "IA3.*take a LoRA"),
    "IA3 of PEFT": ({f"base_model.model.{Q}.ia3_l": torch.ones(128)}, "IA3.*take a LoRA"),
    "a low rank for a norm": ({key.replace("attn2_to_k", "norm1"): tensor for key, tensor in GOOD.items()}, "shapes"),
    "DoRA of inputs": (GOOD | {f"{Q}.dora_scale": torch.ones(1, 192)}, "shapes"),
    "no LoRA": ({"x": torch.ones(1)}, "not a LoRA"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_by_name(emoji, tmp_path, case):
    model = copy.copy(emoji)
    model._patched = None
    tensors, reason = WRONG[case]
    shelve(model, tmp_path, **{"wrong-one": tensors})
    with pytest.raises(ModelError, match=f"(?s)wrong-one.*{reason}"):
        model.for_prompt("apple <lora:wrong-one>")


def test_pictures_carry_their_loras_and_are_made_again_with_them_alone(emoji, registry, tmp_path):
    model = copy.copy(emoji)
    model._patched = None
    shelve(model, tmp_path / "weights", one=kohya(model, kinds=("attn",)))
    settings = Settings(root=ROOT, outputs=tmp_path / "outputs", weights=tmp_path / "weights", device="cpu")
    engine = Engine(registry, settings, lambda found, device: model, lambda folder: {"emoji": emoji.info})
    engine.start()

    def made(prompt: str):
        job = engine.submit(Request(prompt=prompt, steps=2, seed=3), previews=False)
        assert isinstance(job.wait(120), Finished)
        return job.pictures[0].path

    try:
        plain, patched, after = made("cat"), made("cat <lora:one:0.25:0.5>"), made("cat")
        record, others = read_picture(patched).record, [read_picture(path).record for path in (plain, after)]
        assert [other.pixels for other in others] == [others[0].pixels] * 2 and record.pixels != others[0].pixels
        assert record.patches == (model.extra.patch(LoraTag("one", 0.25, 0.5)),) and not others[0].patches
        assert f'Lora hashes: "one: {record.patches[0].digest}"' in infotext(record.data)
        drawn = record.single_request()
        key = key_of_request(drawn, PluginOrigins.of(drawn, registry), engine.identity_of(drawn))
        assert key == key_of_record(record) != key_of_record(others[0])
        assert replay_file(engine, patched).equal
        for wrong in (dict(prompt="<lora:two>"), dict(prompt="<lora:one:x>"), dict(negative_prompt="<lora:one>")):
            with pytest.raises(RequestError, match="LoRA"):
                engine.submit(Request(**wrong))
        shelve(model, tmp_path / "weights", one=kohya(model, seed=4, kinds=("attn",)))
        with pytest.raises(RequestError, match=f"made with another .hash {record.patches[0].digest}"):
            replay_file(engine, patched)
    finally:
        engine.close()


def test_the_embedded_models_own_lora_draws_on_blue_paper(real):
    job = real.submit(Request(prompt="red apple <lora:blueprint>", steps=8, seed=5), previews=False)
    assert isinstance(job.wait(120), Finished)
    red, _, blue = np.asarray(Image.open(job.pictures[0].path)).mean((0, 1))
    assert blue > red + 30


class TestTextualInversion:
    def test_words_are_what_diffusers_makes_of_them(self, emoji, tmp_path):
        """Both of A1111's forms and diffusers'; several vectors stand for one word."""
        from diffusers import StableDiffusionPipeline

        model = copy.copy(emoji)
        model._prompts = type(model._prompts)()
        (folder := tmp_path / "embeddings").mkdir()
        vectors = {"mystyle": random(3, 192), "other": random(1, 192, seed=2), "third": random(2, 192, seed=3)}
        save_file({"emb_params": vectors["mystyle"]}, folder / "mystyle.safetensors")
        save_file({"<any>": vectors["other"][0]}, folder / "other.safetensors")
        torch.save(
            {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors["third"]}, "name": "third", "step": 9},
            folder / "third.pt",
        )
        model.extra = ExtraNetworks(tmp_path)
        text = "a Mystyle cat, other and third"
        network = emoji.network
        tokenizer, encoder = copy.deepcopy(network.prompts.tokenizer), copy.deepcopy(network.prompts.encoder)
        pipe = StableDiffusionPipeline(
            emoji.vae.module, encoder, tokenizer, network.unet, None, None, None, requires_safety_checker=False
        )
        for name, tensor in vectors.items():
            pipe.load_textual_inversion({name: tensor}, token=name)
        ids = tokenizer(
            pipe.maybe_convert_prompt(text.lower(), tokenizer), padding="max_length", return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            expected = pipe.text_encoder(ids)[0]
        mine = model.encode_prompt(text).tensors["text"]
        assert (mine - expected).abs().max() < 1e-5
        assert model.count_tokens(text)[0] == emoji.count_tokens("a cat, and")[0] + 6
        plain = emoji.encode_prompt("a cat").tensors["text"]
        assert torch.equal(model.encode_prompt("a cat").tensors["text"], plain)
        assert model.identity_for("a cat") == emoji.identity
        assert [patch.name for patch in model.identity_for("a cat", "Third").patches] == ["third"]

    def test_what_is_wrong_is_refused_by_name(self, emoji, tmp_path):
        model = copy.copy(emoji)
        (folder := tmp_path / "embeddings").mkdir()
        save_file({"clip_l": random(1, 768), "clip_g": random(2, 1280)}, folder / "xl.safetensors")
        save_file({"emb_params": random(1, 768)}, folder / "wide.safetensors")
        save_file({"emb_params": torch.full((1, 192), torch.nan)}, folder / "nan.safetensors")
        save_file({"emb_params": random(90, 192)}, folder / "many.safetensors")
        save_file({"a": random(1, 192), "b": random(1, 192)}, folder / "two.safetensors")
        model.extra = ExtraNetworks(tmp_path)
        problems = model.extra.problems()
        assert {name: name in text for name, text in problems.items()} == dict(xl=True, many=True, two=True)
        assert "other numbers of vectors" in problems["xl"]
        for word, reason in (("wide", "made for Stable Diffusion 1"), ("nan", "finite")):
            with pytest.raises(ModelError, match=f"{word}.*{reason}"):
                model.encode_prompt(f"a {word}")
