"""What only a CUDA device can show: half precision, replay to the last bit, and memory that runs out."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from webui.core.record import read_record
from webui.core.request import Request
from webui.engine.engine import Engine
from webui.engine.events import Failed, Finished
from webui.replay_command import replay_file
from webui.settings import Settings
from weights.autoencoder import DECODER_BYTES
from weights.diffusers_folder import read_folder
from weights.opening import open_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
WAIT = 300


@pytest.fixture(scope="module")
def engine(registry, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("gpu") / "outputs"
    settings = Settings(root=ROOT, outputs=outputs, weights=ROOT / "weights", device="cuda", model="emoji")
    running = Engine(registry, settings)
    running.start()
    yield running
    running.close()


def draw(engine, **fields):
    job = engine.submit(Request(**dict(dict(prompt="red apple", seed=5, steps=8), **fields)))
    assert isinstance(job.wait(WAIT), Finished), job.outcome
    return [picture.path for picture in job.pictures]


def values(path):
    return np.asarray(Image.open(path).convert("RGB"), float)


def test_half_precision_draws_what_the_cpu_draws(engine, emoji):
    model = open_model(read_folder(ROOT / "weights" / "emoji"), "cuda")
    assert model.network.unet.dtype == torch.float16 and model.vae.module.dtype == torch.float32
    zeros = torch.zeros(1, *model.latents_shape(64, 64), device="cuda")
    for text, guidance in (("red apple", 5.0), ("", 1.0)):
        x = 14.0 * torch.randn(zeros.shape, generator=torch.Generator().manual_seed(0)).cuda()
        here, there = model.denoiser(text, "", guidance)(x, 14.0), emoji.denoiser(text, "", guidance)(x.cpu(), 14.0)
        assert torch.isfinite(here).all() and here.dtype == torch.float32
        torch.testing.assert_close(here.cpu(), there, rtol=0.02, atol=0.1)
    assert values(draw(engine)[0]).std() > 10


def test_layers_in_host_memory_draw_the_same_with_less_gpu_memory():
    found, sizes, told = {}, {}, {}
    for offload in ("none", "text", "layers"):
        before = torch.cuda.memory_allocated()
        model = open_model(read_folder(ROOT / "weights" / "emoji"), "cuda", offload=offload)
        sizes[offload] = torch.cuda.memory_allocated() - before
        x = 14.0 * torch.randn(1, *model.latents_shape(64, 64), generator=torch.Generator().manual_seed(0)).cuda()
        told[offload] = model.encode_prompt("red (apple:1.2)").tensors["text"]
        found[offload] = model.denoiser("red apple <lora:blueprint>", "blue", 5.0)(x, 14.0)
        del model
    for offload in ("text", "layers"):
        assert torch.equal(told[offload], told["none"])
        assert torch.equal(found[offload], found["none"])
    assert sizes["layers"] < sizes["text"] < sizes["none"]


@pytest.mark.parametrize("sampler", ["DDIM", "DDPM", "Euler", "DPM++ SDE"])
def test_a_replay_on_the_same_gpu_is_bit_equal(engine, sampler):
    for path in draw(engine, sampler=sampler, count=2):
        verdict = replay_file(engine, path)
        assert verdict.equal, str(verdict)


@pytest.fixture
def little_memory(engine):
    """A function that leaves torch so many bytes beyond what the engine's model takes."""
    total = torch.cuda.get_device_properties(0).total_memory

    def leave(room):
        draw(engine, steps=1)  # the model is open
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_out_of_memory_ends_the_job_with_a_proposal_and_the_next_one_runs(engine, emoji, little_memory):
    little_memory(48 << 20)
    side = emoji.info.defaults.largest
    outcome = engine.submit(Request(prompt="red apple", width=side, height=side, count=16)).wait(WAIT)
    assert isinstance(outcome, Failed), outcome
    less = side * 3 // 4
    assert outcome.message.startswith(f"Out of memory while drawing 16 of {side}x{side}. Try {less}x{less}")
    assert values(draw(engine, width=64, height=64)[0]).std() > 10


def test_a_vae_without_room_works_in_tiles(engine, emoji, little_memory):
    side = emoji.info.defaults.largest
    latents = torch.zeros(1, *emoji.latents_shape(side, side))
    whole = engine.ask("emoji", lambda model: model.decode(latents)[0]).result(WAIT)
    whole_takes = DECODER_BYTES * emoji.vae.module.config.block_out_channels[0] * side * side
    little_memory(whole_takes // 2)
    tiled = engine.ask("emoji", lambda model: model.decode(latents)[0]).result(WAIT)
    assert tiled.size == whole.size == (side, side)
    assert np.abs(np.asarray(whole, float) - np.asarray(tiled, float)).mean() < 5


def test_a_model_that_is_let_go_gives_its_memory_back(registry, tmp_path):
    settings = Settings(root=ROOT, outputs=tmp_path, weights=ROOT / "weights", device="cuda", model="emoji")

    def left() -> int:
        one = Engine(registry, settings)
        one.start()
        draw(one, steps=1)
        one.close()
        del one
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated()

    # What stays after the first is cuBLAS's workspace, which the next one's thread takes over.
    first = left()
    assert left() <= first


def test_cuda_graphs_draw_the_picture_and_replay_it(registry, engine, tmp_path):
    settings = Settings(root=ROOT, outputs=tmp_path, weights=ROOT / "weights", device="cuda", model="emoji")
    graphs = Engine(registry, replace(settings, backend="cuda-graph"))
    graphs.start()
    try:
        assert "cuda-graph" in graphs.status
        # Two shapes, one of them twice.
        for count in (1, 2, 1):
            for here, there in zip(draw(graphs, count=count), draw(engine, count=count), strict=True):
                assert read_record(here.read_bytes()).model.backend == "cuda-graph"
                assert np.sqrt(np.square(values(here) - values(there)).mean()) < 2
        assert replay_file(engine, here).equal
    finally:
        graphs.close()
