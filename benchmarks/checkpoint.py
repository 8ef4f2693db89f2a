"""A Stable Diffusion 1.5 file of true width with random weights: time and memory to open it, and seconds per step.

    python -m benchmarks.checkpoint --folder DIR            make the file (2 GB) in DIR, measure, print the table
    python -m benchmarks.checkpoint --folder DIR --write    and put the table into README.md

Each opening runs in a process of its own. Time is the processor's, with one thread, so that whatever else the machine
does counts for less. Memory is the highest resident size beyond what the process had before, without the model itself,
as a share of the file's size; mapped pages of the file count, although they can be taken back at any time. Steps are
256 x 256 with guidance, ours and diffusers' StableDiffusionPipeline in turn on the same weights in one process, each in
the memory layout that it opens them in; the shortest of each counts.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import torch

from samplers.generate import plan, run
from samplers.noise import Noise
from samplers.registry import discover
from weights.opening import open_model
from weights.single_file import read_single

from .random_checkpoint import TRUE, checkpoint, save

ROOT = Path(__file__).parent.parent
NAME = "random-sd15"
SIDE, STEPS, ROUNDS = 256, 2, 1
MARKS = "<!-- checkpoint -->", "<!-- /checkpoint -->"


def main() -> None:
    """Measure everything and print the table, or, as a child process, one opening."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--folder", type=Path, required=True, help="where the files are made")
    flags.add_argument("--write", action="store_true", help="put the table into README.md")
    flags.add_argument("--only", choices=("safetensors", "ckpt", "diffusers", "steps"), help=argparse.SUPPRESS)
    given = flags.parse_args()
    if given.only:
        print(json.dumps(measure(given.only, given.folder)))
        return
    make(given.folder)
    results = {kind: _child(kind, given.folder) for kind in ("safetensors", "ckpt", "diffusers", "steps")}
    print(json.dumps(results, indent=1))
    text = table(results)
    print(text)
    if given.write:
        readme = ROOT / "README.md"
        before, rest = readme.read_text("utf-8").split(MARKS[0])
        readme.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", "utf-8")


def make(folder: Path) -> None:
    """The files in half precision, unless they are there."""
    missing = [ending for ending in ("safetensors", "ckpt") if not (folder / f"{NAME}.{ending}").exists()]
    if missing:
        weights = checkpoint(1, TRUE[1], torch.float16)
        for ending in missing:
            save(folder / f"{NAME}.{ending}", weights)


def measure(kind: str, folder: Path) -> dict[str, float]:
    """One measurement: seconds and memory of an opening, or seconds per step."""
    import diffusers  # imports are not what is measured
    import transformers

    torch.set_num_threads(1)
    diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, transformers.CLIPTextModel  # noqa: B018
    if kind == "steps":
        return steps(folder)
    file = folder / f"{NAME}.{'safetensors' if kind == 'diffusers' else kind}"
    # Read once, so that neither is measured against the disk.
    with file.open("rb") as stream:
        while stream.read(1 << 24):
            pass
    before, began = _resident(), time.process_time()
    modules = by_diffusers(file) if kind == "diffusers" else ours(file)
    seconds = time.process_time() - began
    size = sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())
    return dict(seconds=seconds, memory=(_peak() - before - size) / file.stat().st_size)


def ours(file: Path) -> list[torch.nn.Module]:
    """Opened by this program."""
    model = open_model(read_single(file), "cpu")
    return [model._unet, model._vae, model._text._encoder]


def by_diffusers(file: Path) -> list[torch.nn.Module]:
    """Opened by diffusers' from_single_file, which needs a folder of configurations when there is no hub."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from weights.assembly import plan_parts, tokenizer_for

    configs = file.parent / "configs"
    if not configs.exists():
        parts, version = plan_parts(read_single(file))
        for name in ("unet", "vae"):
            parts[name].module.save_config(configs / name)
        parts["text_encoder"].module.config.save_pretrained(configs / "text_encoder")
        tokenizer_for(version).save_pretrained(configs / "tokenizer")
        DDIMScheduler().save_pretrained(configs / "scheduler")
        named = dict(unet="UNet2DConditionModel", vae="AutoencoderKL", scheduler="DDIMScheduler")
        index = {name: ["diffusers", kind] for name, kind in named.items()}
        index |= dict(text_encoder=["transformers", "CLIPTextModel"], tokenizer=["transformers", "CLIPTokenizer"])
        (configs / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))
    pipe = StableDiffusionPipeline.from_single_file(
        file, config=str(configs), torch_dtype=torch.float32, local_files_only=True, safety_checker=None
    )
    return [pipe.unet, pipe.vae, pipe.text_encoder]


def steps(folder: Path) -> dict[str, float]:
    """The shortest step of each, and how far the latents are apart after all of them."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    model = open_model(read_single(folder / f"{NAME}.safetensors"), "cpu")
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    pipe = StableDiffusionPipeline(
        model._vae,
        model._text._encoder,
        model._text._tokenizer,
        model._unet,
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    known = discover(ROOT / "plugins", packages=False)
    ready = plan(model.schedule, known.sampler("DDIM").item, known.schedule("Uniform leading").item, STEPS)
    zeros = torch.zeros(1, *model.latents_shape(SIDE, SIDE))
    start = ready.sigmas[0] * Noise((1,), "initial")(zeros) / math.sqrt(1 + ready.sigmas[0] ** 2)
    gaps: dict[str, list[float]] = {"ours": [], "theirs": []}
    apart = 0.0
    for _ in range(ROUNDS):
        model.lay_out(0)
        times: list[float] = []
        mine = run(
            ready,
            model.denoiser("a cat", "", 7.5),
            zeros,
            (1,),
            lambda step, times=times: times.append(time.process_time()),
        )
        gaps["ours"] += _gaps(times)
        model._unet.to(memory_format=torch.contiguous_format)
        times = []

        def note(pipeline, step, timestep, values, times=times):
            times.append(time.process_time())
            return {}

        theirs = pipe(
            "a cat", negative_prompt="", num_inference_steps=STEPS, guidance_scale=7.5, height=SIDE, width=SIDE,
            latents=start.clone(), output_type="latent", callback_on_step_end=note,
        ).images  # fmt: skip
        gaps["theirs"] += _gaps(times)
        apart = float((mine.x - theirs).abs().max() / theirs.abs().max())
    return {name: min(values) for name, values in gaps.items()} | {"apart": apart}


def table(results: dict[str, dict[str, float]]) -> str:
    """The numbers as ratios, which carry over to other machines better than seconds."""
    theirs = results["diffusers"]
    rows = ["| | processor time | host memory beyond the model |", "| --- | --- | --- |"]
    for kind, name in (("safetensors", "opening `.safetensors`"), ("ckpt", "opening `.ckpt`")):
        mine = results[kind]
        rows.append(
            f"| {name} | {mine['seconds'] / theirs['seconds']:.2f} | {max(0.0, mine['memory']):.2f} of the file |"
        )
    rows.append(f"| diffusers `from_single_file` | 1 | {max(0.0, theirs['memory']):.2f} of the file |")
    step = results["steps"]
    rows.append(f"| a step, against diffusers' pipeline | {step['ours'] / step['theirs']:.2f} | |")
    return "\n".join(rows)


def _child(kind: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.checkpoint", "--folder", str(folder), "--only", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{kind} could not be measured:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in zip(times, times[1:])]


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    """Bytes of a line of Linux' /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("memory can be measured on Linux only")


if __name__ == "__main__":
    main()
