"""What a model does with the memory that there is: number formats, and a VAE that works in tiles where it is short."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import AutoencoderKL
from PIL import Image

import weights.opening
from samplers.run import plan, run
from weights.autoencoder import DECODER_BYTES, Autoencoder
from weights.diffusers_folder import read_folder
from weights.opening import dtype_of, open_model

FULL = torch.OutOfMemoryError("CUDA out of memory")
WIDTH = 8  # channels of the VAE here
WAYS = (FULL, RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), MemoryError())


def test_half_precision_on_cuda_alone_and_never_in_the_vae():
    half, single = torch.float16, torch.float32
    assert [dtype_of(name, torch.device("cuda")) for name in ("unet", "text_encoder", "vae")] == [half, half, single]
    assert {dtype_of(name, torch.device(device)) for name in ("unet", "vae") for device in ("cpu", "mps")} == {single}


def test_a_model_in_half_precision_draws_nearly_the_same_picture(emoji, registry, monkeypatch):
    monkeypatch.setattr(weights.opening, "dtype_of", lambda name, **_: dtype_of(name, torch.device("cuda")))
    half = open_model(read_folder(ROOT / "weights" / "emoji"), "cpu")
    assert half.network.unet.dtype == half.network.prompts.encoder.dtype == torch.float16
    assert half.vae.module.dtype == torch.float32
    ready = plan(emoji.schedule, registry.sampler("DDIM").item, registry.schedule("Uniform leading").item, 2)
    drawn = []
    for model in (emoji, half):
        zeros = torch.zeros(1, *model.latents_shape(64, 64))
        x = run(ready, model.denoiser("a (red:1.2) apple", "blue", 5.0), zeros, (1,)).x
        assert x.dtype == torch.float32
        drawn.append(np.asarray(model.decode(x)[0], float))
    assert 0 < np.abs(drawn[0] - drawn[1]).mean() < 2


@pytest.fixture
def vae(monkeypatch):
    """vae(bytes): a small VAE with so much memory free, and the sides, in latents, that its decoder is given."""
    levels = 3
    module = AutoencoderKL(
        block_out_channels=(WIDTH,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=2,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        sample_size=64,
    ).eval()

    def make(free, module=module, factor=4):
        made, sides = Autoencoder(module, factor, torch.device("cpu")), []
        monkeypatch.setattr(made, "_free", lambda: free)
        decoder = made.module.decoder.forward
        monkeypatch.setattr(made.module.decoder, "forward", lambda z: sides.append(z.shape[-1]) or decoder(z))
        return made, sides

    return make


@pytest.mark.parametrize(
    "room, side, most",
    [(257, 64, 64), (255, 64, 32), (127, 64, 16), (1, 64, 16), (250, 80, 32), (257, 80, 64), (100, 32, 16)],
)
def test_tiles_are_as_large_as_the_free_memory_allows(vae, room, side, most):
    """`room` is the side in pixels of the largest picture that the memory is enough for."""
    made, sides = vae(DECODER_BYTES * WIDTH * room * room)
    (picture,) = made.decode(torch.zeros(1, 4, side, side))
    assert picture.size == (side * 4, side * 4) and max(sides) == most
    assert not made.module.use_tiling and made.module.tile_latent_min_size == 16


def test_a_picture_in_tiles_is_nearly_the_same(vae, emoji):
    side = 2 * emoji.info.defaults.size
    start = Image.radial_gradient("L").resize((side, side)).convert("RGB")
    latents = emoji.encode(start)
    whole = np.asarray(emoji.decode(latents)[0], float)
    made, _ = vae(0, emoji.vae.module, emoji.info.factor)
    tiled = np.asarray(made.decode(latents)[0], float)
    assert 0 < np.abs(whole - tiled).mean() < 0.15 * whole.std()
    torch.testing.assert_close(made.encode(start), latents, rtol=0, atol=0.5)


@pytest.mark.parametrize("error", WAYS, ids=["cuda", "mps", "host"])
@pytest.mark.parametrize("work", ["decode", "encode"])
def test_what_fails_for_memory_is_tried_in_tiles(vae, work, error, monkeypatch):
    made, _ = vae(float("inf"))
    real, tried = getattr(made.module, work), []

    def full(given):
        tried.append(made.module.use_tiling)
        if not made.module.use_tiling:
            raise error
        return real(given)

    monkeypatch.setattr(made.module, work, full)
    given = torch.zeros(1, 4, 32, 32) if work == "decode" else Image.new("RGB", (128, 128))
    getattr(made, work)(given)
    assert tried == [False, True] and not made.module.use_tiling


def test_what_fails_otherwise_is_not_tried_again(vae, monkeypatch):
    made, tried = vae(float("inf"))[0], []

    def wrong(given):
        tried.append(given)
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(made.module, "decode", wrong)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        made.decode(torch.zeros(1, 4, 32, 32))
    assert len(tried) == 1


def test_memory_that_is_not_enough_for_a_tile_is_an_error_and_the_next_picture_is_whole(vae, monkeypatch):
    made, sides = vae(float("inf"))
    with monkeypatch.context() as patch:
        patch.setattr(made.module, "decode", lambda given: (_ for _ in ()).throw(FULL))
        with pytest.raises(torch.OutOfMemoryError):
            made.decode(torch.zeros(1, 4, 32, 32))
    made.decode(torch.zeros(1, 4, 32, 32))
    assert sides == [32] and not made.module.use_tiling


def test_what_torch_holds_and_does_not_use_is_free(emoji, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert Autoencoder(emoji.vae.module, 4, torch.device("cuda"))._free() == 1300
    assert Autoencoder(emoji.vae.module, 4, torch.device("cpu"))._free() == float("inf")
