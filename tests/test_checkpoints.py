"""Single files: the same weights from every format, and the same as diffusers' own conversion."""

import hashlib
import json
import math
import os
import sys
import types

import pytest
import torch
from oracles import states

from benchmarks.checkpoint import table
from benchmarks.random_checkpoint import TRUE, checkpoint, save, shapes, with_average
from samplers.run import plan, run
from weights.catalog import Catalog
from weights.diffusers_folder import read_folder
from weights.model_info import ModelError
from weights.opening import check_model, guess_prediction, open_model
from weights.single_file import read_single

UNET, VAE = "model.diffusion_model.", "first_stage_model."
FORMATS = {1: ".ckpt", 2: ".safetensors"}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def weights():
    return {version: checkpoint(version, seed=version) for version in (1, 2)}


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    """A mini checkpoint of each version and format by (version, ending)."""
    folder = tmp_path_factory.mktemp("weights")
    endings = (".ckpt", ".safetensors")
    return {(v, e): save(folder / f"mini-{v}{e}", weights[v]) for v in weights for e in endings}


@pytest.fixture(scope="module")
def models(files):
    """Each version, opened from a file of another format."""
    return {version: open_model(read_single(files[version, ending]), "cpu") for version, ending in FORMATS.items()}


def state(model, part):
    module = dict(_unet=model.network.unet, _vae=model.vae.module, _text=model.network.prompts.encoder)[part]
    return module.state_dict()


def same(mine, theirs):
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name].reshape(mine[name].shape)) for name in mine)


def count(version, prefix):
    sizes = [
        size
        for name, size in shapes(version, TRUE[version]).items()
        if name.startswith(prefix) and "position_ids" not in name
    ]
    return len(sizes), sum(math.prod(size) for size in sizes)


def test_the_test_tool_writes_the_true_names_and_sizes():
    # Published: 859.5 million weights in the UNet, 83.7 in the VAE, 123.1 in CLIP ViT-L/14's text encoder.
    assert count(1, UNET) == (686, 859_520_964)
    assert count(1, VAE) == (248, 83_653_863)
    assert count(1, "cond_stage_model.") == (196, 123_060_480)
    assert count(2, UNET) == (686, 865_910_724)


@pytest.mark.parametrize("version", FORMATS)
def test_the_weights_are_those_of_diffusers_own_conversion(weights, models, version):
    from diffusers.loaders import single_file_utils as theirs

    model, given = models[version], weights[version]
    same(state(model, "_unet"), theirs.convert_ldm_unet_checkpoint(dict(given), dict(model.network.unet.config)))
    same(state(model, "_vae"), theirs.convert_ldm_vae_checkpoint(dict(given), dict(model.vae.module.config)))
    if version == 1:
        text = theirs.convert_ldm_clip_checkpoint(dict(given))
    else:
        text = theirs.convert_open_clip_checkpoint(model.network.prompts.encoder, dict(given))
    text = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    mine = {name.removeprefix("text_model."): tensor for name, tensor in state(model, "_text").items()}
    # Theirs keeps the layer that Stable Diffusion 2 does not use, and leaves it to the loader.
    same(mine, {name: text[name] for name in mine})
    unused = {name.split(".")[2] for name in text.keys() - mine.keys() if name.startswith("encoder.layers.")}
    assert unused == (set() if version == 1 else {"2"})


@pytest.mark.parametrize("version", [1, 2])
def test_a_diffusers_folder_of_the_same_weights_is_the_same_model(models, version, tmp_path):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    model = models[version]
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    pipe = StableDiffusionPipeline(
        model.vae.module,
        model.network.prompts.encoder,
        model.network.prompts.tokenizer,
        model.network.unet,
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(tmp_path / "folder")
    folder = open_model(read_folder(tmp_path / "folder"), "cpu")
    for part in ("_unet", "_vae", "_text"):
        same(state(model, part), state(folder, part))
    assert torch.equal(states(model, "a (red:1.3) apple"), states(folder, "a (red:1.3) apple"))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    condition = model.encode_prompt("x")
    # Not bit by bit: matrix products round differently where tensors begin at other addresses.
    torch.testing.assert_close(
        model.network(noise, 500.0, condition), folder.network(noise, 500.0, condition), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("version", [1, 2])
def test_a_picture_comes_out(models, version, registry):
    model = models[version]
    ready = plan(model.schedule, registry.sampler("Euler").item, registry.schedule("Uniform leading").item, 2)
    result = run(ready, model.denoiser("a cat", "", 3.0), torch.zeros(1, *model.latents_shape(64, 64)), (1,))
    (picture,) = model.decode(result.x)
    assert picture.size == (64, 64)


def test_the_digest_is_that_of_the_file_as_other_programs_tell_it(files, models):
    path = files[1, ".ckpt"]
    assert models[1].identity.weights == hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    assert models[1].identity.vae == ""


def test_halves_become_what_the_device_needs(weights, tmp_path):
    kinds = {"model": torch.float16, "first_stage_model": torch.bfloat16}
    half = {name: tensor.to(kinds.get(name.split(".")[0], tensor.dtype)) for name, tensor in weights[1].items()}
    model = open_model(read_single(save(tmp_path / "half.safetensors", half)), "cpu")
    for tensor, name in (
        (model.network.unet.conv_in.weight, f"{UNET}input_blocks.0.0.weight"),
        (model.vae.module.decoder.conv_in.weight, f"{VAE}decoder.conv_in.weight"),
    ):
        assert half[name].dtype in (torch.float16, torch.bfloat16)
        assert tensor.dtype is torch.float32
        assert torch.equal(tensor, half[name].float())


def test_the_running_average_is_preferred_if_it_is_complete(weights, tmp_path):
    name = f"{UNET}out.2.bias"
    averaged = with_average(weights[1])
    model = open_model(read_single(save(tmp_path / "ema.safetensors", averaged)), "cpu")
    assert torch.equal(model.network.unet.conv_out.bias, weights[1][name] / 2)
    del averaged["model_ema.diffusion_modelout2bias"]
    model = open_model(read_single(save(tmp_path / "part.safetensors", averaged)), "cpu")
    assert torch.equal(model.network.unet.conv_out.bias, weights[1][name])


def test_names_without_text_model_are_known(weights, tmp_path):
    old = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in weights[1].items()}
    model = open_model(read_single(save(tmp_path / "old.safetensors", old)), "cpu")
    assert torch.equal(
        model.network.prompts.encoder.state_dict()[
            next(n for n in model.network.prompts.encoder.state_dict() if "token_embedding" in n)
        ],
        weights[1]["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"],
    )


def test_a_file_of_lightning_is_opened_and_its_callback_stays_inert(weights, tmp_path, monkeypatch):
    ran = []

    class ModelCheckpoint:
        def __init__(self, *arguments):
            ran.append(arguments)

        def __setstate__(self, state):
            ran.append(state)

        def __reduce__(self):
            return (type(self), ("argument",), {"best": 1})

    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = (
        "pytorch_lightning.callbacks.model_checkpoint",
        "ModelCheckpoint",
    )
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[ModelCheckpoint.__module__].ModelCheckpoint = ModelCheckpoint
    callbacks = {
        ModelCheckpoint: {"monitor": "val/loss", "best_model_score": torch.tensor(0.1), "one": ModelCheckpoint()}
    }
    path = save(tmp_path / "real.ckpt", weights[1], callbacks=callbacks, global_step=470000, epoch=6)
    ran.clear()
    # While it can be imported, and when it cannot, as for most users.
    read_single(path)
    for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, name)
    open_model(read_single(path), "cpu")
    assert ran == []


def test_the_model_does_not_change_with_its_file(weights, tmp_path):
    path = save(tmp_path / "a.safetensors", weights[1])
    model = open_model(read_single(path), "cpu")
    before = model.network.unet.conv_in.weight.clone()
    with path.open("r+b") as stream:
        stream.seek(200_000)
        stream.write(b"\xff" * (path.stat().st_size - 200_000))
    assert (
        torch.equal(model.network.unet.conv_in.weight, before)
        and torch.isfinite(model.vae.module.decoder.conv_in.weight).all()
    )


class TestPrediction:
    def test_version_1_predicts_epsilon(self, files):
        info = read_single(files[1, ".ckpt"])
        assert (info.prediction, info.is_certain, info.defaults.size) == ("epsilon", True, 512)
        assert info.schedule.sigmas[-1] == pytest.approx(14.61, abs=0.01)

    @pytest.mark.parametrize(
        "metadata, extra, prediction",
        [
            ({"modelspec.prediction_type": "v"}, {}, "v_prediction"),
            ({"modelspec.prediction_type": "epsilon"}, {}, "epsilon"),
            ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, {}, "v_prediction"),
            (None, {"v_pred": torch.zeros(0)}, "v_prediction"),
        ],
    )
    def test_what_a_file_says_counts(self, weights, tmp_path, metadata, extra, prediction):
        info = read_single(save(tmp_path / "v2.safetensors", weights[2] | extra, metadata))
        assert (info.prediction, info.is_certain) == (prediction, True)
        assert info.defaults.size == (768 if prediction == "v_prediction" else 512)

    def test_the_base_models_step_says_it(self, weights, tmp_path):
        assert read_single(save(tmp_path / "base.ckpt", weights[2], global_step=875000)).prediction == "epsilon"

    @pytest.mark.parametrize("slope, prediction", [(1.0, "epsilon"), (0.07, "v_prediction"), (-0.9, "v_prediction")])
    def test_else_the_network_itself_is_asked(self, models, slope, prediction):
        model = models[2]
        network = lambda scaled, timestep, condition: slope * scaled  # noqa: E731
        assert guess_prediction(network, model.encode_prompt(""), model.info, model.device) == prediction

    def test_the_embedded_model_is_recognized_by_that(self, emoji):
        def velocity(scaled, timestep, condition):
            # The same network as one that predicts v: v = (eps - sqrt(1 - alpha^2) z) / alpha.
            alpha = 1 / math.sqrt(1 + emoji.schedule.sigmas[-1] ** 2)
            return (emoji.network(scaled, timestep, condition) - math.sqrt(1 - alpha**2) * scaled) / alpha

        known = emoji.encode_prompt(""), emoji.info, emoji.device
        assert emoji.info.prediction == "epsilon" == guess_prediction(emoji.network, *known)
        assert guess_prediction(velocity, *known) == "v_prediction"

    def test_an_opened_file_says_what_it_predicts(self, models):
        model = models[2]
        guess = guess_prediction(model.network, model.encode_prompt(""), model.info, model.device)
        assert model.info.is_certain
        assert model.info.prediction == model.identity.prediction == guess
        assert "asked of the network when it is opened" in model.info.notes[0]

    def test_zero_terminal_snr_is_marked_or_said(self, weights, tmp_path):
        info = read_single(
            save(tmp_path / "z.safetensors", weights[1] | {"ztsnr": torch.zeros(0), "v_pred": torch.zeros(0)})
        )
        assert info.prediction == "v_prediction" and info.schedule.sigmas[-1] > 100
        assert info.defaults.schedule == "Uniform trailing"


class TestBeside:
    """Files beside a checkpoint."""

    def test_what_the_user_says_goes_first(self, weights, tmp_path):
        path = save(tmp_path / "a.safetensors", weights[2])
        (tmp_path / "a.sigmalab.json").write_text('{"prediction": "epsilon", "zero_snr": true, "size": 128}')
        info = read_single(path)
        assert (info.prediction, info.is_certain, info.defaults.size) == ("epsilon", True, 128)
        assert info.schedule.sigmas[-1] > 100

    @pytest.mark.parametrize(
        "text, reason",
        [
            ("{", "cannot be read as JSON"),
            ("[]", "must be a JSON object with some of prediction, zero_snr, size, vae"),
            ('{"prediction": "x"}', "prediction is 'x'; allowed are epsilon, v_prediction, sample"),
            ('{"steps": 5}', "and nothing else"),
            ('{"size": 100}', "size must be a multiple of 64 from 64 to 1024"),
            ('{"size": true}', "size must be a multiple"),
            ('{"zero_snr": 1}', "zero_snr must be true or false"),
            ('{"vae": "../../x"}', "vae must be the name of a file in the same folder"),
            ('{"vae": ".."}', "vae must be the name of a file in the same folder"),
            (r'{"vae": "a\u0000b"}', "vae must be the name of a file in the same folder"),
            (r'{"vae": "\ud800"}', "vae must be the name of a file in the same folder"),
            ('{"vae": "none.safetensors"}', "names the VAE none.safetensors, which is not in the folder"),
        ],
    )
    def test_what_cannot_be_said_is_an_error(self, files, tmp_path, text, reason):
        path = tmp_path / "a.ckpt"
        path.hardlink_to(files[1, ".ckpt"])
        (tmp_path / "a.sigmalab.json").write_text(text)
        with pytest.raises(ModelError, match="a.sigmalab.json.*") as error:
            read_single(path)
        assert reason in str(error.value)

    @pytest.mark.parametrize("prefix, ending", [("", ".vae.safetensors"), (VAE, ".vae.pt")])
    def test_a_vae_beside_takes_the_place_of_its_own(self, weights, files, tmp_path, prefix, ending):
        path = tmp_path / "a.safetensors"
        path.hardlink_to(files[1, ".safetensors"])
        other = {n.removeprefix(VAE): t + 1 for n, t in weights[1].items() if n.startswith(VAE)}
        save(tmp_path / f"a{ending}", {prefix + name: tensor for name, tensor in other.items()})
        info = read_single(path)
        assert info.notes == (f"Its VAE is a{ending}.",)
        model = open_model(info, "cpu")
        assert torch.equal(model.vae.module.decoder.conv_in.bias, other["decoder.conv_in.bias"])
        assert model.identity.vae == hashlib.sha256(info.vae.read_bytes()).hexdigest()[:10]
        assert list(Catalog().find_models(tmp_path)) == ["a"]

    def test_a_named_vae_counts_when_it_comes_and_when_it_changes(self, weights, files, tmp_path):
        (tmp_path / "a.safetensors").hardlink_to(files[1, ".safetensors"])
        (tmp_path / "a.sigmalab.json").write_text('{"vae": "mse.safetensors"}')
        catalog = Catalog()
        assert "names the VAE mse.safetensors, which is not in the folder" in catalog.problems(tmp_path)["a"]
        vae = {n.removeprefix(VAE): t for n, t in weights[1].items() if n.startswith(VAE)}
        save(tmp_path / "mse.safetensors", vae)
        before = catalog.find_models(tmp_path)["a"]
        assert before.vae.name == "mse.safetensors" and catalog.find_models(tmp_path)["a"] is before
        os.utime(tmp_path / "mse.safetensors", (1, 1))
        assert catalog.find_models(tmp_path)["a"] != before

    def test_a_checkpoint_without_one_needs_it(self, weights, tmp_path):
        path = save(tmp_path / "novae.safetensors", {n: t for n, t in weights[1].items() if not n.startswith(VAE)})
        with pytest.raises(
            ModelError, match="novae.safetensors has no VAE; put one beside it as novae.vae.safetensors"
        ):
            read_single(path)
        save(tmp_path / "novae.vae.safetensors", {"lora_up": torch.zeros(1)})
        with pytest.raises(ModelError, match="novae.vae.safetensors should be a VAE and looks like a LoRA"):
            read_single(path)

    def test_settings_of_other_programs_are_not_read_and_it_is_said(self, files, tmp_path):
        path = tmp_path / "a.ckpt"
        path.hardlink_to(files[1, ".ckpt"])
        (tmp_path / "a.yaml").write_text("parameterization: v")
        info = read_single(path)
        assert info.prediction == "epsilon"
        assert info.notes == ("a.yaml is not read; what is wrong about the model can be said in a.sigmalab.json.",)


class TestCatalog:
    def test_a_new_file_is_found_at_once_and_an_old_one_is_not_read_again(self, files, tmp_path, monkeypatch):
        import weights.catalog

        catalog, read = Catalog(), []
        monkeypatch.setattr(
            weights.catalog,
            "read_single",
            lambda path, name, *more: read.append(name) or read_single(path, name, *more),
        )
        assert catalog.find_models(tmp_path) == {}
        (tmp_path / "one.ckpt").hardlink_to(files[1, ".ckpt"])
        first = catalog.find_models(tmp_path)
        (tmp_path / "two.safetensors").hardlink_to(files[2, ".safetensors"])
        assert catalog.find_models(tmp_path) == first | {"two": catalog.find_models(tmp_path)["two"]}
        assert read == ["one", "two"]
        (tmp_path / "one.sigmalab.json").write_text(json.dumps({"size": 64}))
        again = catalog.find_models(tmp_path)["one"]
        assert again != first["one"] and again.defaults.size == 64 and read == ["one", "two", "one"]

    def test_equal_stems_get_their_endings(self, files, tmp_path):
        (tmp_path / "a.ckpt").hardlink_to(files[1, ".ckpt"])
        (tmp_path / "a.safetensors").hardlink_to(files[1, ".safetensors"])
        assert {name: info.path.name for name, info in Catalog().find_models(tmp_path).items()} == {
            "a": "a.safetensors",
            "a.ckpt": "a.ckpt",
        }

    def test_what_cannot_be_used_is_listed_with_its_reason(self, tmp_path):
        (tmp_path / "page.ckpt").write_text("<!DOCTYPE html><html>Sign in</html>")
        assert Catalog().find_models(tmp_path) == {}
        assert "web page" in Catalog().problems(tmp_path)["page"]


def test_checking_reads_no_weights(files, tmp_path):
    info = read_single(files[1, ".safetensors"])
    check_model(info)


def test_the_table_of_the_benchmark_has_ratios_of_medians():
    kinds = ("safetensors", "ckpt", "diffusers")
    opened = {
        kind: [dict(seconds=s * f, memory=m, peak=m + 1, dtype="float32") for s, m in ((9, 0.5), (2, 1), (1, 3))]
        for kind, f in zip(kinds, (1, 3, 2))
    }
    step = dict(ours=[4.0, 3.0, 90.0], theirs=[5.0, 5.0, 1.0], apart=4.4e-6, side=256, dtype="float32")
    both = table({"open": opened, "step": step}).splitlines()
    assert both[2:6] == [
        "| opening `.safetensors` | 0.50 | 1.00 of the file |",
        "| opening `.ckpt` | 1.50 | 1.00 of the file |",
        "| diffusers `from_single_file` | 1.00 | 1.00 of the file |",
        "| a step, against diffusers' pipeline | 0.80 | |",
    ]
    assert both[-1].startswith("Medians of 3 openings in float32 and of 3 steps of 256 x 256") and "4e-06" in both[-1]
    assert "memory is 2.00 of the file with the model in it, with diffusers 2.00" in both[-1]
    assert len(table({"step": step}).splitlines()) == 5 and "openings" not in table({"step": step})
