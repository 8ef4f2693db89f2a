"""A Stable Diffusion 1.5 file of true width with random weights: time and memory to open it, and seconds per step.

    python -m benchmarks.checkpoint --folder DIR            make the files (4 GB) in DIR, measure, print the table
    python -m benchmarks.checkpoint --folder DIR --write    and put the table into docs/weights.md
    python -m benchmarks.checkpoint --folder DIR --parts open --repeat 5     a part alone; what DIR/results.json has of
                                                            the other part stays in the table
    python -m benchmarks.checkpoint --folder DIR --mini     at a small width: whether all of it runs, and no figures

Both sides are measured in turn, and medians count. Time is the processor's, with one thread, so that whatever else the
machine does counts for less. Each opening runs in a process of its own; memory is the highest resident size beyond what
the process had before, without the model itself, as a share of the file's size; mapped pages of the file count,
although they can be taken back at any time. Steps are with guidance, ours and diffusers' StableDiffusionPipeline on the
same weights in one process, each in the memory layout that it opens them in; the first step of a run warms up and is
not counted. 8 GB of memory are enough.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from samplers.noise import Noise
from samplers.registry import discover
from samplers.run import plan, run
from weights.families import recognize_file
from weights.opening import open_model
from weights.single_file import read_single
from weights.tensors import read_shapes

from .docs_table import write_table
from .random_checkpoint import MINI, TRUE, checkpoint, save

ROOT = Path(__file__).parent.parent
NAME, RESULTS = "random-sd15", "results.json"
OPENINGS = ("safetensors", "ckpt", "diffusers")
APART = 1e-3  # of the largest latent: if the two sides differ by more, they did not do the same work


def main() -> None:
    """Measure what is asked for and print the table, or, as a child process, one measurement."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--folder", type=Path, required=True, help="where the files and results are")
    flags.add_argument("--parts", default="open,step", help="open (time and memory) and step, with a comma")
    flags.add_argument("--repeat", type=int, default=3, help="how often each side is measured (3)")
    flags.add_argument("--steps", type=int, default=4, help="steps of a run, the first not counted (4)")
    flags.add_argument("--side", type=int, default=256, help="pixels of a side of the picture (256)")
    flags.add_argument("--mini", action="store_true", help="a small width, to see whether all of it runs")
    flags.add_argument("--write", action="store_true", help="put the table into docs/weights.md")
    flags.add_argument("--only", choices=(*OPENINGS, "step"), help=argparse.SUPPRESS)
    given = flags.parse_args()
    parts = set(given.parts.split(","))
    if parts - {"open", "step"}:
        flags.error(f"--parts is {given.parts}; allowed are open, step, and open,step")
    if given.repeat < 1 or given.steps < 2:
        flags.error("--repeat is 1 at least, and --steps 2")
    if given.write and given.mini:
        flags.error("figures of a small width say nothing, and are not written")
    if given.only:
        print(json.dumps(_measure(given)))
        return
    make(given.folder, given.mini)
    results = measure_parts(given, parts)
    text = table(results)
    print(text)
    if given.write:
        write_table("weights.md", "checkpoint", text)


def measure_parts(given: argparse.Namespace, parts: set[str]) -> dict[str, Any]:
    """Measure the parts, one process after another, and return all results of the folder, older ones too."""
    file = given.folder / (f"mini-{RESULTS}" if given.mini else RESULTS)
    results = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if "open" in parts:
        rounds = [{kind: _child(kind, given) for kind in OPENINGS} for _ in range(given.repeat)]
        results["open"] = {kind: [each[kind] for each in rounds] for kind in OPENINGS}
        _replace(file, results)
    if "step" in parts:
        results["step"] = _child("step", given)
        _replace(file, results)
    return results


def make(folder: Path, mini: bool) -> None:
    """The files in half precision, unless they are there; a broken-off attempt leaves none that looks whole."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [path for ending in ("safetensors", "ckpt") if not (path := path_of(folder, mini, ending)).exists()]
    if missing:
        weights = checkpoint(1, (MINI if mini else TRUE)[1], torch.float16)
        for path in missing:
            os.replace(save(path.with_name(f"part-{path.name}"), weights), path)


def path_of(folder: Path, mini: bool, ending: str) -> Path:
    """Where a checkpoint is."""
    return folder / f"{NAME}{'-mini' if mini else ''}.{ending}"


def opening(kind: str, folder: Path, mini: bool) -> dict[str, float]:
    """Seconds and memory, as a share of the file, of one opening: "safetensors" and "ckpt" by us, or by "diffusers"."""
    file = path_of(folder, mini, "safetensors" if kind == "diffusers" else kind)
    # Read once, so that neither is measured against the disk.
    with file.open("rb") as stream:
        while stream.read(1 << 24):
            pass
    configs = configurations(file) if kind == "diffusers" else file
    before, began = _memory("VmRSS"), time.process_time()
    modules = by_diffusers(file, configs) if kind == "diffusers" else ours(file)
    seconds = time.process_time() - began
    size = sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())
    return dict(seconds=seconds, memory=max(0, _memory("VmHWM") - before - size) / file.stat().st_size)


def ours(file: Path) -> list[torch.nn.Module]:
    """Opened by this program."""
    model = open_model(read_single(file), "cpu")
    return [model.network.unet, model.vae.module, model.network.prompts.encoder]


def configurations(file: Path) -> Path:
    """A folder of configurations for diffusers, which otherwise asks its hub for them."""
    from diffusers import DDIMScheduler

    folder = file.with_name(f"{file.stem}-configs")
    if not (folder / "model_index.json").exists():
        _, checkpoint = recognize_file(read_shapes(file))
        parts = checkpoint.parts(None)
        for name in ("unet", "vae"):
            parts[name].module.save_config(folder / name)
        parts["text_encoder"].module.config.save_pretrained(folder / "text_encoder")
        checkpoint.tokenizers()["tokenizer"].save_pretrained(folder / "tokenizer")
        DDIMScheduler().save_pretrained(folder / "scheduler")
        named = dict(unet="UNet2DConditionModel", vae="AutoencoderKL", scheduler="DDIMScheduler")
        index = {name: ["diffusers", kind] for name, kind in named.items()}
        index |= dict(text_encoder=["transformers", "CLIPTextModel"], tokenizer=["transformers", "CLIPTokenizer"])
        _replace(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", **index})
    return folder


def by_diffusers(file: Path, configs: Path) -> list[torch.nn.Module]:
    """Opened by diffusers' from_single_file."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_single_file(
        file, config=str(configs), torch_dtype=torch.float32, local_files_only=True, safety_checker=None
    )
    return [pipe.unet, pipe.vae, pipe.text_encoder]


def steps(file: Path, side: int, count: int, repeat: int) -> dict[str, Any]:
    """Seconds of each step of each side but the first of a run, and how far the latents are apart at the end."""
    model = open_model(read_single(file), "cpu")
    pipe = _pipeline(model)
    known = discover(ROOT / "plugins", packages=False)
    ready = plan(model.schedule, known.sampler("DDIM").item, known.schedule("Uniform leading").item, count)
    zeros = torch.zeros(1, *model.latents_shape(side, side))
    start = ready.sigmas[0] * Noise((1,), "initial")(zeros) / math.sqrt(1 + ready.sigmas[0] ** 2)
    results: dict[str, Any] = dict(ours=[], theirs=[], apart=0.0, side=side)
    for _ in range(repeat):
        model.network.unet.to(memory_format=torch.channels_last)
        mine, theirs = Stopwatch(), Stopwatch()
        x = run(ready, model.denoiser("a cat", "", 7.5), zeros, (1,), mine).x
        model.network.unet.to(memory_format=torch.contiguous_format)
        latents = pipe(
            "a cat",
            negative_prompt="",
            num_inference_steps=count,
            guidance_scale=7.5,
            height=side,
            width=side,
            latents=start.clone(),
            output_type="latent",
            callback_on_step_end=theirs,
        ).images
        results["ours"] += mine.laps
        results["theirs"] += theirs.laps
        apart = float((x - latents).abs().max() / latents.abs().max())
        if not apart < APART:
            sys.exit(f"the latents are {apart:.1g} apart: the two sides did not do the same work")
        results["apart"] = max(results["apart"], apart)
    return results


class Stopwatch:
    """Called after each step, whatever it is given; `laps` are the processor's seconds from one to the next."""

    def __init__(self):
        self._times: list[float] = []

    def __call__(self, *given: Any) -> dict[str, Any]:
        self._times.append(time.process_time())
        return {}  # diffusers wants a dictionary

    @property
    def laps(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self._times)]


def table(results: Mapping[str, Any]) -> str:
    """The results as ratios, which carry over to other machines better than seconds."""
    rows = ["| | processor time | host memory beyond the model |", "| --- | --- | --- |"]
    said = []
    if "open" in results:
        middle = {
            kind: {name: median(each[name] for each in results["open"][kind]) for name in ("seconds", "memory")}
            for kind in OPENINGS
        }
        names = ("opening `.safetensors`", "opening `.ckpt`", "diffusers `from_single_file`")
        for kind, name in zip(OPENINGS, names, strict=True):
            share = middle[kind]["seconds"] / middle["diffusers"]["seconds"]
            rows.append(f"| {name} | {share:.2f} | {middle[kind]['memory']:.2f} of the file |")
        said.append(f"of {len(results['open']['ckpt'])} openings")
    if "step" in results:
        step = results["step"]
        rows.append(f"| a step, against diffusers' pipeline | {median(step['ours']) / median(step['theirs']):.2f} | |")
        said.append(f"of {len(step['ours'])} steps of {step['side']} x {step['side']} with guidance")
    end = f"; the latents are the same to {results['step']['apart']:.0e} of the largest" if "step" in results else ""
    return "\n".join([*rows, "", f"Medians {' and '.join(said)}, ours and diffusers' in turn{end}."])


def _measure(given: argparse.Namespace) -> dict[str, Any]:
    import diffusers  # imports are not what is measured
    import transformers

    torch.set_num_threads(1)
    diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, diffusers.StableDiffusionPipeline  # noqa: B018
    transformers.CLIPTextModel  # noqa: B018
    if given.only == "step":
        return steps(path_of(given.folder, given.mini, "safetensors"), given.side, given.steps, given.repeat)
    return opening(given.only, given.folder, given.mini)


def _pipeline(model: Any) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    encoder, tokenizer = model.network.prompts.encoder, model.network.prompts.tokenizer
    pipe = StableDiffusionPipeline(
        model.vae.module, encoder, tokenizer, model.network.unet, scheduler, None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _child(kind: str, given: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.checkpoint", "--folder", str(given.folder), "--only", kind]
    command += ["--repeat", str(given.repeat), "--steps", str(given.steps), "--side", str(given.side)]
    began = time.monotonic()
    done = subprocess.run(command + ["--mini"] * given.mini, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        # A negative status is a signal's number: 9 is what a machine without memory sends.
        sys.exit(f"{kind} could not be measured (status {done.returncode}):\n{done.stderr[-2000:]}")
    print(f"{kind}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _replace(file: Path, content: Any) -> None:
    temporary = file.with_name(f"part-{file.name}")
    temporary.write_text(json.dumps(content, indent=1), "utf-8")
    os.replace(temporary, file)


def _memory(name: str) -> int:
    """Bytes of a line of Linux' /proc/self/status: VmRSS is resident now, VmHWM was at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("memory can be measured on Linux only")


if __name__ == "__main__":
    main()
