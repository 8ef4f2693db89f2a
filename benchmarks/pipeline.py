"""One picture of a model by this program and by diffusers' pipeline: time, memory, start, and errors over calls.

    python -m benchmarks.pipeline                          the embedded model: network, engine and API in turn
    python -m benchmarks.pipeline --model NAME --diffusers another of weights/, and diffusers beside them
    python -m benchmarks.pipeline --errors                 and the error of each sampler over network calls

All sides draw in turn in one process, on the same modules, with the same steps and guidance; medians count. Memory,
start and first picture are those of a process of its own for each side: from its beginning, with the imports, until the
model is open and until its first picture. Memory is the highest resident size, on Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from .page import GUIDANCE, PROMPT, ROOT, STEPS, Measure, api_client, bare, in_turn, server, table, through_engine

DIFFUSERS, ENGINE = "diffusers", "engine"


def main() -> None:
    """Measure what is asked for and print the tables, or, as a child process, one side's beginning."""
    began = time.perf_counter()
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", default="emoji", metavar="NAME", help="a model in weights/ (emoji)")
    flags.add_argument("--diffusers", action="store_true", help="also measure diffusers' pipeline")
    flags.add_argument("--errors", action="store_true", help="also measure errors, which takes minutes")
    flags.add_argument("--repeat", type=int, default=5, help="how often each side is measured (5)")
    flags.add_argument("--only", choices=(ENGINE, DIFFUSERS), help=argparse.SUPPRESS)
    given = flags.parse_args()
    if given.only:
        print(json.dumps(beginning(given.only, given.model, began)))
        return
    print(device(), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        print(table(measure(Path(folder), given.model, given.diffusers, given.repeat)), end="\n\n")
    sides = (ENGINE, DIFFUSERS) if given.diffusers else (ENGINE,)
    print(beginnings_table({side: _child(side, given.model) for side in sides}))
    if given.errors:
        print(f"\n{errors_table(given.model)}")


def device() -> str:
    """What computes, in a few words."""
    from .speed import processor

    where = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return (
        f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}; {STEPS} steps, guidance {GUIDANCE:g}"
    )


def measure(folder: Path, model: str, diffusers: bool, repeat: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds, processor seconds) of a picture by each side, the bare network first; see `page.in_turn`."""
    with ExitStack() as stack:
        engine, url = stack.enter_context(server(folder, model))
        sides: dict[str, Measure] = {"network and decoder": bare(engine), ENGINE: lambda: through_engine(engine)}
        sides["API (gradio_client)"] = stack.enter_context(api_client(url))
        if diffusers:
            sides[DIFFUSERS] = lambda: float(engine.ask(model, by_diffusers).result(None))
        return in_turn(sides, repeat)


def by_diffusers(model: Any) -> float:
    """Seconds of a picture that diffusers' pipeline draws with the modules of an opened model."""
    pipe, size = pipeline_around(model), model.info.defaults.size
    began = time.perf_counter()
    pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=size, width=size)
    return time.perf_counter() - began


def pipeline_around(model: Any) -> Any:
    """diffusers' pipeline around the modules of an opened model, which has the same scheduler whatever the model is."""
    from .checkpoint_sides import KINDS, pipeline_of

    return pipeline_of(model, KINDS["sdxl" if hasattr(model.network, "second") else "sd15"])


def beginning(side: str, name: str, began: float) -> dict[str, float]:
    """Seconds until the model is open and until the first picture, and the highest resident size in bytes."""
    from weights.catalog import Catalog
    from weights.opening import open_model

    info = Catalog().find_models(ROOT / "weights")[name]
    if side == DIFFUSERS:
        from diffusers import StableDiffusionPipeline

        if info.path.is_dir() and (info.path / "vae").is_dir():
            pipe = StableDiffusionPipeline.from_pretrained(info.path, local_files_only=True, safety_checker=None)
        else:
            pipe = pipeline_around(open_model(info, "auto"))
        opened = time.perf_counter() - began
        pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    else:
        with tempfile.TemporaryDirectory() as folder, server(Path(folder), name) as (engine, _):
            engine.ask(name, type).result(None)
            opened = time.perf_counter() - began
            through_engine(engine)
    return dict(opened=opened, first=time.perf_counter() - began, memory=_peak())


def beginnings_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """What the children measured."""
    rows = ["| from the start of a process | model open | first picture | memory at most |", "| --- " * 4 + "|"]
    for side, each in found.items():
        rows.append(f"| {side} | {each['opened']:.1f} s | {each['first']:.1f} s | {each['memory'] / 1e9:.2f} GB |")
    return "\n".join(rows)


def errors_table(name: str) -> str:
    """The error over calls of every deterministic sampler under guidance, as in docs/samplers.md, on this model."""
    from samplers.registry import discover
    from weights.catalog import Catalog
    from weights.opening import open_model

    from .samplers import guided_errors, guided_table

    model = open_model(Catalog().find_models(ROOT / "weights")[name], "auto")
    return "\n".join(guided_table(guided_errors(discover(ROOT / "plugins", packages=False), model)))


def _child(side: str, model: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.pipeline", "--only", side, "--model", model]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} could not be measured (status {done.returncode}):\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _peak() -> int:
    """Bytes that this process had in memory at most; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    main()
