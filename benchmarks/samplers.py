"""Every native sampler beside the same one of k-diffusion and diffusers, on a Gaussian mixture with a known answer.

    python -m benchmarks.samplers            print the tables
    python -m benchmarks.samplers --write    put them into docs/samplers.md and the page's advice

Error: the median over 256 starting points of |end - exact| / |exact - mean of the data|, 8 components in 16 dimensions,
float64, Stable Diffusion's noise range, exponential schedule. Exact is a Runge-Kutta solution with 1,000 steps and the
same last denoising as every run has. These numbers are about numerics, not about the beauty of pictures.

A second kind of error is what users meet: the embedded model at guidance 5, |latents - reference| / |reference| against
60 steps of DPM++ 2M, the median over two prompts and two seeds (four, where schedules are compared), with the samplers'
default options.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import torch

from samplers.reference import solve_flow
from samplers.registry import Registry, discover
from samplers.run import plan, run
from samplers.sampler import Sampler
from samplers.schedule import stable_diffusion
from samplers.testing import GaussianDenoiser, MixtureDenoiser, end_of, geometric, measure_order
from webui.core.sampler_advice import FILE, FirstChoice, SamplerErrors
from weights.diffusers_folder import read_folder
from weights.model import Model
from weights.opening import open_model

from .docs_table import write_table

ROOT = Path(__file__).parent.parent
BUDGETS = (5, 10, 20, 50)
IMAGES = 256
GUIDANCE, PROMPTS, SEEDS = 5.0, ("red apple", "cat face"), (0, 1)
GUIDED_SCHEDULES, GUIDED_CALLS = ("Karras", "Uniform trailing"), (8, 12, 20)
BY_SCHEDULE = (("Karras", 5.0), ("Exponential", 5.0), ("Uniform trailing", 5.0), ("Karras", 1.0))
USUAL, REFERENCE, MORE_SEEDS = ("Euler", "DPM++ 2M", "DEIS", "iPNDM", "LMS", "UniPC"), "DPM++ 2M", (0, 1, 2, 3)
NEAR = 0.01  # an error that nobody sees
# Native name -> the same method elsewhere, with the options that make it the same.
SAME = {
    "DDIM": [("diffusers DDIM", {})],
    "Euler": [("k-diffusion Euler", {}), ("diffusers Euler", {})],
    "Heun": [("k-diffusion Heun", {}), ("diffusers Heun", {})],
    "DPM2": [("k-diffusion DPM2", {})],
    "DPM++ 2M": [("k-diffusion DPM++ 2M", {}), ("diffusers DPM++ multistep", {})],
    "DPM++ 2S": [("k-diffusion DPM++ 2S ancestral", {"eta": 0.0})],
    "DPM++ 3M": [("diffusers DPM++ multistep", {"order": 3})],
    "LMS": [("k-diffusion LMS", {}), ("diffusers LMS", {})],
    "DEIS": [("diffusers DEIS", {"order": 3})],
    "iPNDM": [("diffusers iPNDM", {})],
    "UniPC": [("diffusers UniPC", {})],
}


@cache
def mixture() -> MixtureDenoiser:
    """The data: 8 components of different places and widths."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(8, 1, 4, 4, generator=generator, dtype=torch.float64)
    stds = torch.linspace(0.1, 0.4, 8, dtype=torch.float64)
    return MixtureDenoiser(means, stds, torch.full((8,), 1 / 8, dtype=torch.float64))


@cache
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Starting points (256, 1, 4, 4) and where the probability-flow ODE takes them, denoised at sigma_min."""
    model, denoise = stable_diffusion(), mixture()
    start = model.sigma_max * torch.randn(
        IMAGES, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    return start, denoise(solve_flow(denoise, start, model.sigma_max, model.sigma_min, 1000), model.sigma_min)


def grid(steps: int) -> tuple[float, ...]:
    """The exponential schedule of so many steps, ending with 0."""
    model = stable_diffusion()
    return (*geometric(model.sigma_max, model.sigma_min, steps - 1), 0.0) if steps > 1 else (model.sigma_max, 0.0)


def steps_within(sampler: Sampler, budget: int, **options) -> int:
    """The largest number of steps that needs no more than `budget` calls; 0 if even one needs more."""
    fitting = [n for n in range(1, budget + 1) if sampler.count_calls(grid(n), **options) <= budget]
    return max(fitting, default=0)


def error(sampler: Sampler, budget: int, **options) -> float | None:
    """Median relative error at the end with at most `budget` calls."""
    steps = steps_within(sampler, budget, **options)
    if not steps:
        return None
    start, exact = problem()
    end = end_of(sampler, mixture(), start, grid(steps), **options)
    centre = mixture().means.mean(0)
    return ((end - exact).flatten(1).norm(dim=1) / (exact - centre).flatten(1).norm(dim=1)).median().item()


def row(sampler: Sampler, label: str, measured: bool, **options) -> str:
    """One line of the table."""
    order = sampler.order_of(**options)
    order_text = f"{order} ({measure_order(sampler, **options):.2f})" if measured and order else ""
    calls = sampler.count_calls(grid(20), **options) / 20
    cells = [error(sampler, budget, **options) for budget in BUDGETS]
    return (
        f"| {label} | {order_text} | {calls:.2g} | " + " | ".join("" if e is None else f"{e:.2g}" for e in cells) + " |"
    )


def deterministic_options(name: str) -> dict[str, str]:
    """With which options a sampler is in the table of the deterministic ones."""
    return {"method": "heun"} if name == "Flow" else {}


def deterministic_table(registry: Registry) -> list[str]:
    """Native samplers that draw no noise of their own, each above its namesakes."""
    lines = [
        "| sampler | order (measured) | calls a step | " + " | ".join(f"error at {b} calls" for b in BUDGETS) + " |"
    ]
    lines.append("| --- " * (3 + len(BUDGETS)) + "|")
    for name, sampler in native(registry).items():
        options = deterministic_options(name)
        if sampler.stochastic_with(**options):
            continue
        lines.append(row(sampler, f"**{name}**" + (" (heun)" if options else ""), True, **options))
        for other, other_options in SAME.get(name, []):
            if other in registry.samplers:
                lines.append(row(registry.samplers[other].item, f"&nbsp;&nbsp;{other}", False, **other_options))
    return lines


def stochastic_table(registry: Registry) -> list[str]:
    """Native samplers with noise: the spread that they give a Gaussian, divided by the exact one."""
    lines = ["| sampler | calls a step | " + " | ".join(f"spread at {b} calls" for b in (20, 50, 200)) + " |"]
    lines.append("| --- " * 5 + "|")
    x = stable_diffusion().sigma_max * torch.randn(
        4, 1, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    data = GaussianDenoiser(0.0, 0.5)
    for name, sampler in native(registry).items():
        if not sampler.stochastic_with():
            continue
        # The last call denoises, which shrinks the spread by a known factor.
        exact = data.std**2 / math.sqrt(data.std**2 + stable_diffusion().sigma_min ** 2)
        cells = [end_of(sampler, data, x, grid(steps_within(sampler, b))).std().item() / exact for b in (20, 50, 200)]
        calls = sampler.count_calls(grid(20)) / 20
        lines.append(f"| {name} | {calls:.2g} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return lines


@torch.no_grad()
def drawn(
    registry: Registry,
    model: Model,
    name: str,
    schedule: str,
    steps: int,
    guidance: float = GUIDANCE,
    seeds: Sequence[int] = SEEDS,
) -> torch.Tensor:
    """The latents of every prompt and seed on a model."""
    size = model.info.defaults.size
    start = torch.zeros(len(seeds), *model.latents_shape(size, size))
    ready = plan(model.schedule, registry.sampler(name).item, registry.schedule(schedule).item, steps)
    return torch.cat([run(ready, model.denoiser(prompt, "", guidance), start, seeds).x for prompt in PROMPTS])


def apart(latents: torch.Tensor, reference: torch.Tensor) -> float:
    """The median over pictures of |latents - reference| / |reference|, to two digits."""
    errors = (latents - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)
    return float(f"{errors.median().item():.2g}")


def by_schedule_table(registry: Registry, model: Model) -> list[str]:
    """Usual samplers on a model with 8 calls, on several schedules, and without guidance."""
    head = " | ".join(f"{schedule}, guidance {guidance:g}" for schedule, guidance in BY_SCHEDULE)
    draw = partial(drawn, registry, model, seeds=MORE_SEEDS)
    references = {each: draw(REFERENCE, each[0], 60, each[1]) for each in BY_SCHEDULE}
    lines = [f"| sampler | {head} |", "| --- " * (1 + len(BY_SCHEDULE)) + "|"]
    for name in USUAL:
        made = {each: draw(name, each[0], GUIDED_CALLS[0], each[1]) for each in BY_SCHEDULE}
        lines.append(f"| {name} | " + " | ".join(f"{apart(made[each], references[each]):g}" for each in made) + " |")
    return lines


def guided_errors(registry: Registry, model: Model) -> SamplerErrors:
    """Native deterministic samplers on a model at guidance 5."""
    compared = {
        name: item for name, item in native(registry).items() if not item.stochastic_with() and not item.own_grid_with()
    }
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for schedule in GUIDED_SCHEDULES:
        reference, found[schedule] = drawn(registry, model, REFERENCE, schedule, 60), {}
        for name, sampler in compared.items():
            made = (drawn(registry, model, name, schedule, steps_within(sampler, calls)) for calls in GUIDED_CALLS)
            found[schedule][name] = tuple(apart(each, reference) for each in made)
    plain = [name for name, sampler in compared.items() if sampler.calls == 1]
    return SamplerErrors(
        model=model.name, guidance=GUIDANCE, calls=GUIDED_CALLS, errors=found, first=first_of(found, plain)
    )


def first_of(errors: Mapping[str, Mapping[str, Sequence[float]]], samplers: Sequence[str]) -> FirstChoice:
    """The one of these samplers, and its schedule, that is NEAR after the fewest calls; the nearest if none is."""
    ends = [
        (error > NEAR, calls if error <= NEAR else 0, error, name, schedule)
        for schedule, rows in errors.items()
        for name in samplers
        for calls, error in zip(GUIDED_CALLS, rows[name], strict=True)
    ]
    _, steps, _, name, schedule = min(ends)
    return FirstChoice(sampler=name, schedule=schedule, steps=steps or GUIDED_CALLS[-1])


def guided_table(found: SamplerErrors) -> list[str]:
    """The errors under guidance as the lines of a table."""
    head = [f"{schedule}, {calls} calls" for schedule in found.errors for calls in found.calls]
    lines = ["| sampler | " + " | ".join(head) + " |", "| --- " * (1 + len(head)) + "|"]
    for name in next(iter(found.errors.values())):
        cells = [f"{error:g}" for rows in found.errors.values() for error in rows[name]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def native(registry: Registry) -> dict[str, Sampler]:
    """The samplers that are not bridges to another package, nor made for distilled networks or for one model."""
    bridges = ("built-in/k_diffusion", "built-in/diffusers_schedulers", "built-in/lcm")
    return {
        name: entry.item
        for name, entry in registry.samplers.items()
        if entry.source not in bridges and not entry.item.calibrate
    }


def tables(registry: Registry) -> str:
    """Both tables as Markdown."""
    return "\n".join([*deterministic_table(registry), "", *stochastic_table(registry)])


def write_errors(found: SamplerErrors) -> None:
    """Put errors into the file that the page reads, a sampler a line."""
    text = json.dumps(found.model_dump(mode="json"), indent=1)
    brief = re.sub(r"\[([^\]]*)\]", lambda numbers: f"[{' '.join(numbers[1].split())}]", text)
    FILE.write_text(brief + "\n", "utf-8")


def main() -> None:
    """Print the tables, or write them into docs/samplers.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/samplers.md")
    write = parser.parse_args().write
    registry = discover(ROOT / "plugins", packages=False)
    embedded = open_model(read_folder(ROOT / "weights" / "emoji"), "cpu")
    errors = guided_errors(registry, embedded)
    guided, by_schedule = "\n".join(guided_table(errors)), "\n".join(by_schedule_table(registry, embedded))
    if write:
        write_errors(errors)
        write_table("samplers.md", "samplers", tables(registry))
        write_table("samplers.md", "guided", guided)
        write_table("samplers.md", "by-schedule", by_schedule)
    else:
        print(tables(registry), guided, by_schedule, sep="\n\n")


if __name__ == "__main__":
    main()
