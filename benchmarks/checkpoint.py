"""Stable Diffusion files of true width with random weights: time and memory to open them, and seconds per step.

    python -m benchmarks.checkpoint --folder DIR            make the files (4 GB) in DIR, measure, print the table
    python -m benchmarks.checkpoint --folder DIR --write    and put the table into docs/weights.md
    python -m benchmarks.checkpoint --folder DIR --parts open --repeat 5     a part alone; what DIR/results.json has of
                                                            the other part stays in the table
    python -m benchmarks.checkpoint --folder DIR --mini     at a small width: whether all of it runs, and no figures
    python -m benchmarks.checkpoint --folder DIR --kind sdxl     Stable Diffusion XL (7 GB) in bfloat16, not SD 1.5
    python -m benchmarks.checkpoint --folder DIR --kind sdxl --parts step --dtype float32    its steps in float32

Both sides are measured in turn, and medians count. Time is the processor's, with one thread, so that whatever else the
machine does counts for less. Each opening runs in a process of its own; memory is the highest resident size beyond what
the process had before, without the model itself, as a share of the file's size; mapped pages of the file count,
although they can be taken back at any time. Steps are with guidance, ours and diffusers' StableDiffusionPipeline on the
same weights in one process, each in the memory layout that it opens them in; the first step of a run warms up and is
not counted. 8 GB of memory are enough, for Stable Diffusion XL 12, and 16 for its steps in float32. These are to be
compared: on a processor without instructions for bfloat16 its convolutions take 12 times as long in diffusers' layout
as in ours, and its rounding hides differences below 1e-2.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from samplers.noise import Noise
from samplers.registry import discover
from samplers.run import plan, run

from .checkpoint_sides import (
    APART,
    KINDS,
    Kind,
    by_diffusers,
    configurations,
    modules_of,
    pipeline_of,
    prompts_for,
    replace_json,
)
from .docs_table import write_table

ROOT = Path(__file__).parent.parent
RESULTS = "results.json"
TITLES = dict(safetensors="opening `.safetensors`", ckpt="opening `.ckpt`", diffusers="diffusers `from_single_file`")


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
    flags.add_argument("--kind", choices=tuple(KINDS), default="sd15", help="what is measured (sd15)")
    flags.add_argument("--dtype", choices=tuple(APART), help="of the UNet (the kind's own)")
    flags.add_argument("--only", choices=(*TITLES, "step"), help=argparse.SUPPRESS)
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
    kind_of(given).make(given.folder, given.mini)
    results = measure_parts(given, parts)
    text = table(results)
    print(text)
    if given.write:
        write_table("weights.md", "checkpoint" if given.kind == "sd15" else f"checkpoint-{given.kind}", text)


def kind_of(given: argparse.Namespace) -> Kind:
    """The kind that the flags name."""
    kind = KINDS[given.kind]
    return replace(kind, dtype=given.dtype) if given.dtype else kind


def measure_parts(given: argparse.Namespace, parts: set[str]) -> dict[str, Any]:
    """Measure the parts, one process after another, and return all results of the folder, older ones too."""
    name = RESULTS if given.kind == "sd15" else f"{given.kind}-{RESULTS}"
    file, openings = given.folder / (f"mini-{name}" if given.mini else name), KINDS[given.kind].openings
    results = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if "open" in parts:
        rounds = [{opening: _child(opening, given) for opening in openings} for _ in range(given.repeat)]
        results["open"] = {opening: [each[opening] for each in rounds] for opening in openings}
        replace_json(file, results)
    if "step" in parts:
        results["step"] = _child("step", given)
        replace_json(file, results)
    return results


def opening(kind: Kind, how: str, folder: Path, mini: bool) -> dict[str, Any]:
    """Seconds and memory, as a share of the file, of one opening: "safetensors" and "ckpt" by us, or by "diffusers".

    memory  beside the model; `peak` is with it
    """
    file = kind.path(folder, mini, "safetensors" if how == "diffusers" else how)
    # Read once, so that neither is measured against the disk.
    with file.open("rb") as stream:
        while stream.read(1 << 24):
            pass
    configs = configurations(file) if how == "diffusers" else file
    before, began = _memory("VmRSS"), time.process_time()
    modules = by_diffusers(file, configs, kind) if how == "diffusers" else modules_of(kind.open(file))
    seconds = time.process_time() - began
    size = sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())
    peak, whole = _memory("VmHWM") - before, file.stat().st_size
    return dict(seconds=seconds, memory=max(0, peak - size) / whole, peak=peak / whole, dtype=kind.dtype)


def steps(kind: Kind, file: Path, side: int, count: int, repeat: int) -> dict[str, Any]:
    """Seconds of each step of each side but the first of a run, and how far the latents are apart at the end."""
    model = kind.open(file)
    pipe = pipeline_of(model, kind)
    told = prompts_for(pipe, kind, "a cat")
    known = discover(ROOT / "plugins", packages=False)
    ready = plan(model.schedule, known.sampler("DDIM").item, known.schedule("Uniform leading").item, count)
    zeros = torch.zeros(1, *model.latents_shape(side, side))
    start = ready.sigmas[0] * Noise((1,), "initial")(zeros) / math.sqrt(1 + ready.sigmas[0] ** 2)
    results: dict[str, Any] = dict(ours=[], theirs=[], apart=0.0, side=side, dtype=kind.dtype)
    for _ in range(repeat):
        model.network.unet.to(memory_format=torch.channels_last)
        mine, theirs = Stopwatch(), Stopwatch()
        x = run(ready, model.denoiser("a cat", "", 7.5), zeros, (1,), mine).x
        model.network.unet.to(memory_format=torch.contiguous_format)
        latents = pipe(
            **told,
            num_inference_steps=count,
            guidance_scale=7.5,
            height=side,
            width=side,
            latents=start.to(told["prompt_embeds"].dtype) if kind.is_xl else start.clone(),
            output_type="latent",
            callback_on_step_end=theirs,
        ).images
        results["ours"] += mine.laps
        results["theirs"] += theirs.laps
        apart = float((x - latents).abs().max() / latents.abs().max())
        if not apart < kind.apart:
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
    said, end = [], ""
    if "open" in results:
        middle = {
            opening: {name: median(each[name] for each in taken) for name in ("seconds", "memory", "peak")}
            for opening, taken in results["open"].items()
        }
        for opening, each in middle.items():
            share = each["seconds"] / middle["diffusers"]["seconds"]
            rows.append(f"| {TITLES[opening]} | {share:.2f} | {each['memory']:.2f} of the file |")
        taken = results["open"]["diffusers"]
        said.append(f"of {len(taken)} opening{'s'[: len(taken) > 1]} in {taken[0]['dtype']}")
        peaks = (middle[how]["peak"] for how in ("safetensors", "diffusers"))
        end += " At its highest, memory is {:.2f} of the file with the model in it, with diffusers {:.2f}.".format(
            *peaks
        )
    if "step" in results:
        step = results["step"]
        rows.append(f"| a step, against diffusers' pipeline | {median(step['ours']) / median(step['theirs']):.2f} | |")
        said.append(f"of {len(step['ours'])} steps of {step['side']} x {step['side']} with guidance in {step['dtype']}")
        end = f" The latents are the same to {step['apart']:.0e} of the largest.{end}"
    return "\n".join([*rows, "", f"Medians {' and '.join(said)}, ours and diffusers' in turn.{end}"])


def _measure(given: argparse.Namespace) -> dict[str, Any]:
    import diffusers  # imports are not what is measured
    import transformers

    kind = kind_of(given)
    torch.set_num_threads(1)
    diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline  # noqa: B018
    transformers.CLIPTextModelWithProjection  # noqa: B018
    if given.only == "step":
        file = kind.path(given.folder, given.mini, "safetensors")
        return steps(kind, file, given.side, given.steps, given.repeat)
    return opening(kind, given.only, given.folder, given.mini)


def _child(only: str, given: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.checkpoint", "--folder", str(given.folder), "--only", only]
    command += ["--kind", given.kind, "--dtype", kind_of(given).dtype]
    command += ["--repeat", str(given.repeat), "--steps", str(given.steps), "--side", str(given.side)]
    began = time.monotonic()
    done = subprocess.run(command + ["--mini"] * given.mini, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        # A negative status is a signal's number: 9 is what a machine without memory sends.
        sys.exit(f"{only} could not be measured (status {done.returncode}):\n{done.stderr[-2000:]}")
    print(f"{only}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _memory(name: str) -> int:
    """Bytes of a line of Linux' /proc/self/status: VmRSS is resident now, VmHWM was at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("memory can be measured on Linux only")


if __name__ == "__main__":
    main()
