"""Quick decoders of weights/previews/: every usual naming gives what diffusers' AutoencoderTiny gives."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import save_file

from benchmarks.random_checkpoint import checkpoint
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.jobs import Finished
from webui.replay_command import replay_file
from webui.settings import Settings
from weights.autoencoder import Autoencoder
from weights.extra_networks import ExtraNetworks
from weights.opening import open_model
from weights.preview_decoder import USUAL_SCALE, XL_SCALE, open_preview, preview_for
from weights.single_file import read_single

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny():
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    return AutoencoderTiny().eval().requires_grad_(False)


def renamed(tiny, prefix, first):
    parts = ((name.split(".", 2), tensor) for name, tensor in tiny.decoder.state_dict().items())
    return {f"{prefix}{int(number) + first}.{rest}": tensor for (_, number, rest), tensor in parts}


def latents(side=8):
    return torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("naming", ["diffusers", "original", "comfyui"])
def test_it_decodes_as_diffusers_does(tiny, tmp_path, naming):
    path = tmp_path / "taesd_decoder.safetensors"
    tensors = {
        "diffusers": tiny.state_dict(),
        "original": renamed(tiny, "", 1),
        "comfyui": renamed(tiny, "taesd_decoder.", 1),
    }
    save_file(tensors[naming], path)
    assert torch.equal(open_preview(path, CPU)(latents()), tiny.decode(latents()).sample)


def test_pickles_are_read_without_running_them(tiny, tmp_path):
    torch.save(renamed(tiny, "", 1), tmp_path / "taesd_decoder.pth")
    assert open_preview(tmp_path / "taesd_decoder.pth", CPU)(latents(4)).shape == (2, 3, 32, 32)


def test_large_latents_are_made_smaller_on_a_cpu(tiny, tmp_path):
    save_file(renamed(tiny, "", 1), tmp_path / "a.safetensors")
    assert open_preview(tmp_path / "a.safetensors", CPU)(latents(128)[:1]).shape == (1, 3, 512, 512)


def test_the_vae_tells_which_is_meant():
    both = dict.fromkeys(("taesd_decoder", "taesdxl_decoder"))
    assert preview_for(USUAL_SCALE, both) == "taesd_decoder"
    assert preview_for(XL_SCALE, both) == "taesdxl_decoder"
    assert preview_for(1.5, both) is None
    assert preview_for(XL_SCALE, {"taesd_decoder": None}) is None


def test_what_is_no_decoder_is_named_and_an_encoder_left_out(tiny, tmp_path):
    (folder := tmp_path / "previews").mkdir()
    save_file(renamed(tiny, "", 1), folder / "good.safetensors")
    save_file({"1.weight": torch.ones(3)}, folder / "taesd_encoder.safetensors")
    save_file({"x": torch.ones(3)}, folder / "wrong.safetensors")
    cut = {name: tensor for name, tensor in renamed(tiny, "", 1).items() if not name.startswith("10.")}
    save_file(cut, folder / "cut.safetensors")
    extra = ExtraNetworks(tmp_path)
    problems = extra.problems()
    assert set(problems) == {"wrong", "cut"}
    assert "not the decoder of a tiny autoencoder" in problems["wrong"] and "is not complete" in problems["cut"]
    assert extra.preview_decoder(USUAL_SCALE, CPU) is extra.preview_decoder(USUAL_SCALE, CPU) is not None


def test_a_preview_is_its_picture_where_the_vae_is_too_slow(tiny):
    usual = SimpleNamespace(config=SimpleNamespace(block_out_channels=(128, 256, 512, 512)))
    vae, large = Autoencoder(usual, 8, CPU), latents(32)
    (picture, _) = vae.preview(large, lambda: lambda given: tiny.decode(given).sample)
    assert picture.size == (256, 256)
    assert vae.is_cheap(128, 128) and not vae.is_cheap(136, 128)


def test_a_small_model_is_never_too_slow(emoji):
    assert emoji.vae.is_cheap(*[emoji.info.defaults.largest] * 2)


def test_a_draft_is_decoded_by_it_named_in_the_record_and_made_again_with_it_alone(tiny, registry, tmp_path):
    (previews := tmp_path / "weights" / "previews").mkdir(parents=True)
    save_file(checkpoint(1), tmp_path / "weights" / "small.safetensors")
    info = read_single(tmp_path / "weights" / "small.safetensors")
    info = replace(info, defaults=replace(info.defaults, size=64))
    settings = Settings(root=ROOT, outputs=tmp_path / "outputs", weights=tmp_path / "weights", device="cpu")
    engine = Engine(registry, settings, open_model, lambda folder: {"small": info})
    engine.start()
    try:
        request = Request(prompt="cat", steps=2, seed=3, decoder="quick")
        failed = engine.submit(request, previews=False).wait(120)
        assert "no quick decoder for model small; put TAESD" in failed.message
        save_file(renamed(tiny, "", 1), previews / "taesd.safetensors")
        job = engine.submit(request, previews=False)
        assert isinstance(job.wait(120), Finished)
        record = read_picture(job.pictures[0].path).record
        assert [(patch.name, patch.kind) for patch in record.patches] == [("taesd", "decoder")]
        assert Image.open(job.pictures[0].path).size == (64, 64)
        assert replay_file(engine, job.pictures[0].path).equal
        changed = {name: tensor * 1.1 for name, tensor in renamed(tiny, "", 1).items()}
        save_file(changed, previews / "taesd.safetensors")
        with pytest.raises(RequestError, match="Quick decoder taesd here has hash"):
            replay_file(engine, job.pictures[0].path)
    finally:
        engine.close()
