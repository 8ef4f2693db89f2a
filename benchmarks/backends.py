"""Every sampler through OpenVINO: its picture beside torch's, and both drawn again in a fresh process.

    python -m benchmarks.backends                   every sampler, minutes
    python -m benchmarks.backends DDIM "DPM++ SDE"  some
    python -m benchmarks.backends --write           and put the summary into docs/weights.md

A picture of the embedded model, 12 steps with guidance 5, by torch and by each number format that OpenVINO has on this
CPU: how far they are apart (root mean square, of 255). Then `python launch.py replay` has to make each of the files
again, bit for bit, in a process that has seen none of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from samplers.registry import Registry, discover
from webui.core.request import Request
from webui.engine.engine import Engine
from webui.engine.events import Finished
from webui.settings import Settings
from weights.backends.backend import OPENVINO, TORCH
from weights.backends.openvino_backend import openvino_dtypes

from .docs_table import write_table
from .speed import ROOT, processor

ALLOWED = 2.0  # of 255, root mean square


def main() -> int:
    """Measure, print a table and return how many pictures are wrong."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("samplers", nargs="*", help="all without any")
    flags.add_argument("--write", action="store_true", help="put the summary into docs/weights.md")
    given = flags.parse_args()
    torch.set_num_threads(1)
    registry = discover(ROOT / "plugins", packages=False)
    names = given.samplers or list(registry.samplers)
    with tempfile.TemporaryDirectory() as folder:
        files, lines, wrong = dict[str, list[Path]](), list[str](), 0
        for way, (backend, dtype) in ways().items():
            files[way] = drawn(registry, Path(folder), backend, dtype, names)
        reference, *others = files
        for way in others:
            apart = [distance(*pair) for pair in zip(files[reference], files[way], strict=True)]
            for name, each in zip(names, apart, strict=True):
                print(f"{way}  {name}  {each:.3f}", flush=True)
            wrong += sum(each > ALLOWED for each in apart)
            worst = max(range(len(names)), key=apart.__getitem__)
            lines.append(
                f"{way}: {np.median(apart):.2g} of 255 in the median, {apart[worst]:.2g} at most ({names[worst]})"
            )
        made = [path for each in files.values() for path in each]
        missed = replayed(made)
    told = f"{len(names)} samplers, {processor()}. {'. '.join(lines)}."
    text = f"{told}\nMade again in a fresh process, bit for bit: {len(made) - missed} of {len(made)} pictures."
    print(text)
    if given.write:
        write_table("weights.md", "backends", text)
    return wrong + missed


def ways() -> dict[str, tuple[str, str]]:
    """Backend and number format by name, torch first."""
    return {"torch": (TORCH, "auto")} | {f"{OPENVINO} {name}": (OPENVINO, name) for name in openvino_dtypes()}


def drawn(registry: Registry, folder: Path, backend: str, dtype: str, samplers: Sequence[str]) -> list[Path]:
    """The files of a picture by each sampler."""
    settings = Settings(
        ROOT,
        outputs=folder / f"{backend}-{dtype}",
        weights=ROOT / "weights",
        device="cpu",
        backend=backend,
        dtype=dtype,
        cache=folder / "cache",
        background=False,
    )
    engine = Engine(registry, settings)
    engine.start()
    try:
        return [picture(engine, name) for name in samplers]
    finally:
        engine.close()


def picture(engine: Engine, sampler: str) -> Path:
    """The file of a picture. RuntimeError says why there is none."""
    job = engine.submit(Request(prompt="red apple", sampler=sampler, steps=12, guidance=5.0, seed=7), previews=False)
    outcome = job.wait()
    if not isinstance(outcome, Finished):
        raise RuntimeError(f"{sampler}: {outcome}")
    return job.pictures[0].path


def distance(one: Path, other: Path) -> float:
    """Root mean square of two pictures' difference, of 255."""
    a, b = (np.asarray(Image.open(path).convert("RGB"), float) for path in (one, other))
    return float(np.sqrt(np.square(a - b).mean()))


def replayed(files: Sequence[Path]) -> int:
    """How many files a fresh process does not make again bit for bit."""
    command = [sys.executable, ROOT / "launch.py", "replay", *files]
    lines = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    missed = [line for line in lines if not line.endswith(": bit-equal")]
    print(*missed, sep="\n")
    return len(files) - (len(lines) - len(missed))


if __name__ == "__main__":
    sys.exit(main())
