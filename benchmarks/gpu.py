"""Guided steps a second at Stable Diffusion 1.5's width, with random weights that are made on the device.

    python -m benchmarks.gpu --json FILE    on the GPU; prints the table, and writes what was measured after each row
    python -m benchmarks.gpu --small        tiny networks, on whatever is there: whether all of it runs

A step is a call of the UNet with a batch of 2 at 64 x 64 latents (512 pixels). Eager diffusers in float16 is the base
of the shares; stable-fast's report has 54.5 of its steps a second on an H100, and 104.6 with CUDA graphs and fused
kernels.
A way that fails is a row that says why. No way begins once --seconds have passed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from weights.diffusers_folder import read_folder
from weights.feature_reuse import ReusingUNet
from weights.model_info import describe_error
from weights.opening import open_model

ROOT = Path(__file__).parent.parent
WIDTHS = {False: (320, 640, 1280, 1280), True: (32, 32, 64, 64)}
VAE_WIDTHS = {False: (128, 256, 512, 512), True: (32, 32, 32, 32)}
Call = Callable[[], Any]


def main() -> None:
    """Measure, and print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    flags.add_argument("--seconds", type=float, default=270, help="begin nothing after these (270)")
    flags.add_argument("--small", action="store_true", help="tiny networks")
    given = flags.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not given.small:
        flags.error("there is no CUDA device; --small runs on a CPU")
    results: dict[str, Any] = dict(device=name_of(device), torch=torch.__version__, small=given.small, rows={})
    end = time.monotonic() + given.seconds
    for name, prepare in ways(device, given.small):
        if time.monotonic() > end:
            results["rows"][name] = dict(problem="no time was left")
        else:
            results["rows"][name] = measured(prepare, device, given.small)
        print(name, results["rows"][name], flush=True)
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(results, indent=1), "utf-8")
    print(table(results))


def measured(prepare: Callable[[], Call], device: torch.device, small: bool) -> dict[str, Any]:
    """Calls a second of a way, the seconds until it was ready, and the memory at most; or its problem."""
    free(device)
    began = time.monotonic()
    try:
        with torch.inference_mode():
            call = prepare()
            for _ in range(1 if small else 5):
                call()
            synchronize(device)
            ready = time.monotonic() - began
            laps = []
            for _ in range(2 if small else 30):
                lap = time.perf_counter()
                call()
                synchronize(device)
                laps.append(time.perf_counter() - lap)
    except Exception as error:
        return dict(problem=describe_error(error))
    found = dict(per_second=1 / statistics.median(laps), ready=ready)
    return found | (dict(memory=torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else {})


def ways(device: torch.device, small: bool) -> Iterator[tuple[str, Callable[[], Call]]]:
    """What is measured, by name; the cheap and the telling ones first."""
    half = torch.float16 if device.type == "cuda" else torch.float32
    last, plain = torch.channels_last, torch.contiguous_format
    name = "float16" if device.type == "cuda" else "float32"
    yield f"{name}, eager", lambda: step(device, half, plain, small)
    yield f"{name}, channels-last", lambda: step(device, half, last, small)
    yield "bfloat16, eager", lambda: step(device, torch.bfloat16, plain, small)
    yield "bfloat16, channels-last", lambda: step(device, torch.bfloat16, last, small)
    if device.type == "cuda":
        yield "float16, CUDA graph", lambda: graphed(step(device, half, plain, small))
        yield "float16, channels-last, CUDA graph", lambda: graphed(step(device, half, last, small))
    yield f"{name}, a call that uses features again", lambda: again(device, half, small)
    yield "VAE decoding, float32", lambda: decoding(device, small)
    yield "a picture of emoji, 20 guided steps and decoding", lambda: picture(device, small)
    yield "training of emoji's UNet, batch of 64", lambda: training(device, small)
    if device.type == "cuda":
        yield "float32 with TF32, eager", lambda: step(device, torch.float32, plain, small, tf32=True)
        yield "float16, channels-last, regional compile", lambda: step(device, half, last, small, "blocks")
        yield "float16, compile", lambda: step(device, half, last, small, "default")
        yield "float16, compile with CUDA graphs", lambda: step(device, half, last, small, "reduce-overhead")


def step(
    device: torch.device, dtype: torch.dtype, layout: Any, small: bool, compiled: str = "", tf32: bool = False
) -> Call:
    """A guided call of the UNet of Stable Diffusion 1.5.

    compiled  "blocks" translates the blocks that repeat, another name is a mode of torch.compile
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    unet, latents, text = network(device, dtype, layout, small)
    at = torch.tensor([500.0], device=device)
    if compiled == "blocks":
        unet.compile_repeated_blocks(fullgraph=True)
    elif compiled:
        unet = torch.compile(unet, mode=compiled)
    return lambda: unet(latents, at, encoder_hidden_states=text).sample


def network(device: torch.device, dtype: torch.dtype, layout: Any, small: bool) -> tuple[Any, Any, Any]:
    """The UNet of Stable Diffusion 1.5, and what it is given: latents of two pictures, and their words."""
    width, side = (64, 16) if small else (768, 64)
    with device:
        unet = UNet2DConditionModel(block_out_channels=WIDTHS[small], cross_attention_dim=width, attention_head_dim=8)
        latents, text = torch.randn(2, 4, side, side), torch.randn(2, 77, width)
    unet = unet.eval().to(dtype).to(memory_format=layout)
    return unet, latents.to(dtype).to(memory_format=layout), text.to(dtype)


def again(device: torch.device, dtype: torch.dtype, small: bool) -> Call:
    """A guided call between whole ones, see `weights.feature_reuse`; the first is whole."""
    unet, latents, text = network(device, dtype, torch.contiguous_format, small)
    reusing, falling = ReusingUNet(unet, 1 << 30), count(0)
    return lambda: reusing(latents, torch.tensor([500.0 - 0.1 * next(falling)], device=device), text).sample


def graphed(call: Call) -> Call:
    """The call as a CUDA graph, which is replayed without Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay() -> Any:
        graph.replay()
        return kept

    return replay


def decoding(device: torch.device, small: bool) -> Call:
    """The decoder of Stable Diffusion 1.5's VAE."""
    with device:
        vae: Any = AutoencoderKL(
            block_out_channels=VAE_WIDTHS[small],
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        latents = torch.randn(1, 4, *[16 if small else 64] * 2)
    vae.eval()
    return lambda: vae.decode(latents).sample


def picture(device: torch.device, small: bool) -> Call:
    """A picture by this program, without the page."""
    model = open_model(read_folder(ROOT / "weights" / "emoji"), device.type)
    denoise, levels = model.denoiser("red apple", "", 5.0), model.schedule.sigmas
    steps = 2 if small else 20
    sigmas = [levels[round(place * (len(levels) - 1) / steps)] for place in range(steps, 0, -1)] + [0.0]

    def draw() -> Any:
        x = sigmas[0] * torch.randn(1, *model.latents_shape(*[model.info.defaults.size] * 2), device=device)
        for sigma, lower in zip(sigmas, sigmas[1:], strict=False):
            x = x + (lower - sigma) * (x - denoise(x, sigma)) / sigma
        return model.decode(x)

    return draw


def training(device: torch.device, small: bool) -> Call:
    """A step of training: forward, backward and AdamW, in bfloat16 on CUDA."""
    images = 2 if small else 64
    # Tensors that are made in inference mode cannot be trained.
    with torch.inference_mode(False), torch.enable_grad():
        unet = open_model(read_folder(ROOT / "weights" / "emoji"), "cpu").network.unet
        unet = unet.to(device).train().requires_grad_(True)
        optimizer = torch.optim.AdamW(unet.parameters(), 1e-5, fused=True)
        with device:
            side = unet.config.sample_size
            latents, at = torch.randn(images, unet.config.in_channels, side, side), torch.full((images,), 500.0)
            text = torch.randn(images, 32, unet.config.cross_attention_dim)

    def train() -> None:
        with torch.inference_mode(False), torch.enable_grad():
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                output = unet(latents, at, encoder_hidden_states=text).sample
            optimizer.zero_grad(set_to_none=True)
            output.float().square().mean().backward()
            optimizer.step()

    return train


def table(results: Mapping[str, Any]) -> str:
    """What was measured as Markdown."""
    base = next(iter(results["rows"].values()), {}).get("per_second")
    rows = [f"{results['device']}, torch {results['torch']}", "", "| | a second | of eager | ready after | memory |"]
    rows.append("| --- " * 5 + "|")
    for name, row in results["rows"].items():
        if "problem" in row:
            rows.append(f"| {name} | {row['problem']} | | | |")
            continue
        share = f"{row['per_second'] / base:.2f}" if base and "float" in name and "VAE" not in name else ""
        memory = f"{row['memory'] / (1 << 30):.1f} GiB" if "memory" in row else ""
        rows.append(f"| {name} | {row['per_second']:.4g} | {share} | {row['ready']:.0f} s | {memory} |")
    return "\n".join(rows)


def name_of(device: torch.device) -> str:
    """The GPU's name, or the CPU's instruction set."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()


def free(device: torch.device) -> None:
    """Give back what the way before took."""
    if device.type == "cuda":
        torch.compiler.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
