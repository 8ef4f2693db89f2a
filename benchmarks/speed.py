"""How long a guided call and a decoding take by each backend, as shares of diffusers' default, torch in float32.

    python -m benchmarks.speed                              the embedded model
    python -m benchmarks.speed --true-width FOLDER          Stable Diffusion 1.5's width, with random weights that are
                                                            made in FOLDER (2 GB, and 4 GB for the conversion)
    python -m benchmarks.speed ... --write                  and put the table into docs/weights.md
    python -m benchmarks.speed --mini FOLDER                at a small width: whether all of it runs, and no figures

All sides are measured in turn in one process, and medians count. Time is the processor's, with --threads threads (1),
so that whatever else the machine does counts for less. "Picture" is 20 guided calls and a decoding. Memory is what is
resident once a backend draws, as a share of what is with torch alone; the conversion is made in a process of its own,
as the page does.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil
import torch

from webui.engine.errors import free_memory
from weights.backends.conversions import Conversions
from weights.backends.openvino_backend import OpenVinoBackend, openvino_dtypes, openvino_version
from weights.diffusers_folder import read_folder
from weights.model import Model
from weights.opening import open_model
from weights.single_file import read_single

from .docs_table import write_table
from .random_checkpoint import MINI, TRUE, checkpoint, save

ROOT = Path(__file__).parent.parent
DIFFUSERS, CALLS = "diffusers, float32", 20


@dataclass
class Side:
    """One way to compute a model; `calls` and `decodings` are seconds of the processor.

    prepare  is called before each measurement, outside of the time
    """

    model: Model
    prepare: Callable[[], object] = lambda: None
    calls: list[float] = field(default_factory=list)
    decodings: list[float] = field(default_factory=list)
    error: float = 0.0

    @property
    def picture(self) -> float:
        """Seconds of 20 guided calls and a decoding."""
        return CALLS * median(self.calls) + median(self.decodings)


def main() -> None:
    """Measure and print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--true-width", type=Path, metavar="FOLDER", help="Stable Diffusion 1.5's width")
    flags.add_argument("--mini", type=Path, metavar="FOLDER", help="a small width")
    flags.add_argument("--rounds", type=int, default=5, help="how often each side is measured (5)")
    flags.add_argument("--threads", type=int, default=1, help="of the CPU (1)")
    flags.add_argument("--write", action="store_true", help="put the table into docs/weights.md")
    given = flags.parse_args()
    if given.write and given.mini:
        flags.error("figures of a small width say nothing, and are not written")
    torch.set_num_threads(given.threads)
    model = opened(given.mini or given.true_width, bool(given.mini))
    with tempfile.TemporaryDirectory(dir=given.true_width) as folder:
        sides, memory = sides_of(model, Path(folder))
        measure(sides, given.rounds)
        text = table(sides, memory, given.threads, model.info.defaults.size)
    print(text)
    if given.write:
        write_table("weights.md", "speed-sd15" if given.true_width else "speed", text)


def opened(folder: Path | None, mini: bool) -> Model:
    """The embedded model, or one with random weights that are kept in a folder."""
    if folder is None:
        return open_model(read_folder(ROOT / "weights" / "emoji"), "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"random-sd15{'-mini' if mini else ''}.safetensors"
    if not file.exists():
        save(file, checkpoint(1, (MINI if mini else TRUE)[1], torch.float16))
    return open_model(read_single(file), "cpu")


def sides_of(model: Model, folder: Path) -> tuple[dict[str, Side], dict[str, float]]:
    """The sides by name, diffusers' default first, and the resident memory with each, as a share."""
    unet, latents = model.network.unet, torch.zeros(1, *model.latents_shape(64, 64))
    before = resident_after(lambda: model.decode(latents))
    layout = torch.channels_last if unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last) else None
    sides = {
        DIFFUSERS: Side(model, lambda: unet.to(memory_format=torch.contiguous_format)),
        "torch float32": Side(model, lambda: unet.to(memory_format=layout or torch.contiguous_format)),
    }
    memory = {"torch float32": 1.0}
    if openvino_version():
        conversions = Conversions(folder)
        conversion = conversions.begin(model.info, model.identity, lambda: None, threads=torch.get_num_threads())
        conversion.wait()
        path = conversions.find(model.identity)
        if path is None:
            raise SystemExit(f"openvino cannot convert it: {conversion.problem}")
        for dtype in openvino_dtypes():
            other = model.computed_by(OpenVinoBackend(path, dtype))
            sides[f"openvino {dtype}"] = Side(other)
            if model.weights and dtype == "float32":
                model.weights.release()
                memory["openvino float32"] = resident_after(lambda other=other: other.decode(latents)) / before
                model.weights.restore()
    return sides, memory


@torch.inference_mode()
def measure(sides: Mapping[str, Side], rounds: int) -> None:
    """Fill in the times, and how far each side's output is from the first's, as a share of the largest."""
    first = next(iter(sides.values())).model
    size = first.info.defaults.size
    noise = torch.randn(2, *first.latents_shape(size, size), generator=torch.Generator().manual_seed(0))
    inputs = first.network.inputs(noise, 500.0, first.encode_prompt("red apple").repeat(2))
    reference: torch.Tensor | None = None
    for number in range(rounds + 1):
        for side in sides.values():
            side.prepare()
            seconds, output = timed(lambda side=side: side.model.network.step(inputs))
            decoding, _ = timed(lambda side=side: side.model.decode(noise[:1]))
            reference = output.clone() if reference is None else reference
            side.error = float((output - reference).abs().max() / reference.abs().max())
            if number:  # the first one makes things ready
                side.calls.append(seconds)
                side.decodings.append(decoding)


def timed(work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Seconds of the processor that work takes, and what it returns."""
    before = time.process_time()
    result = work()
    return time.process_time() - before, result


def resident_after(work: Callable[[], object]) -> float:
    """Bytes of this process that lie in memory after some work, once what nothing refers to is given back."""
    work()
    free_memory()
    return psutil.Process().memory_info().rss


def table(sides: Mapping[str, Side], memory: Mapping[str, float], threads: int, size: int) -> str:
    """The times as shares of diffusers' default."""
    base = sides[DIFFUSERS]
    rows = ["| | guided call | decoding | picture | off by | memory |", "| --- " * 6 + "|"]
    for name, side in sides.items():
        call, decoding = (median(getattr(side, what)) / median(getattr(base, what)) for what in ("calls", "decodings"))
        error = f"{side.error:.0e}" if side.error else "0"
        share = f"{memory[name]:.2f}" if name in memory else ""
        rows.append(f"| {name} | {call:.2f} | {decoding:.2f} | {side.picture / base.picture:.2f} | {error} | {share} |")
    where = f"{processor()}, {'one thread' if threads == 1 else f'{threads} threads'}"
    theirs = f"diffusers' call takes {median(base.calls):.2g} s, its decoding {median(base.decodings):.2g} s"
    end = f"{size} x {size}, {where}; {theirs}. Medians of {len(base.calls)}, in turn."
    return "\n".join([*rows, "", end])


def processor() -> str:
    """The processor's name and instruction set."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


if __name__ == "__main__":
    main()
