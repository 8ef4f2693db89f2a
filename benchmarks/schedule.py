"""Measure the Schedule tab on the server, and compare what it shows with runs, for every combination.

    python -m benchmarks.schedule              time one redraw with 1,000 points, beside the plain computation
    python -m benchmarks.schedule --product    every sampler, schedule, steps, strength and its meaning: minutes

The plain computation is the schedule's own function and log-SNR, alpha-bar and timestep of its numbers, nothing else.
Times are the best of several, on the processor's clock, with the figure turned into JSON as it goes to the browser.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch

from samplers.levels import levels
from samplers.registry import Registry, discover
from samplers.run import Plan, run
from samplers.schedule import stable_diffusion
from samplers.testing import GaussianDenoiser
from samplers.wrappers import Counted
from webui.engine.engine import Engine
from webui.engine.run_preview import numbers, preview_run
from webui.settings import Settings
from webui.tabs.form.form_state import recall_options
from webui.tabs.schedule.run_plot import redraw
from weights.model_info import Defaults, ModelInfo

ROOT = Path(__file__).parent.parent
BUDGET = 0.150  # seconds
TRIES = 7
STEPS, STRENGTHS, MEANINGS = (1, 2, 5, 20, 50), (0.1, 0.25, 0.5, 0.58, 0.75, 1.0), ("steps", "noise")


def main() -> None:
    """Print the measurements; ends with 1 if something is too slow or does not agree."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--product", action="store_true", help="compare every combination with a run")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        engine = served(discover(ROOT / "plugins", packages=False), Path(folder))
        sys.exit(compare(engine) if flags.parse_args().product else measure(engine))


def served(registry: Registry, folder: Path) -> Engine:
    """An engine on Stable Diffusion's noise schedule; it is never started."""
    defaults = Defaults(size=64, multiple=8, largest=256, guidance=1.0, schedule="Karras", max_batch=1)
    info = ModelInfo("SD", folder, stable_diffusion(), "epsilon", 4, 8, defaults)
    return Engine(registry, Settings(root=folder, outputs=folder, model="SD"), find_models=lambda path: {"SD": info})


def measure(engine: Engine) -> int:
    """Time redraws of 1,000 points; 1 if one takes longer than BUDGET."""
    model, options = stable_diffusion(), recall_options(None, engine.registry)
    karras = engine.registry.schedule("Karras").item
    plain = best(lambda: levels(model, karras(model, 1000)))
    print(f"plain computation of 1,000 points: {1000 * plain:.1f} ms\n")
    print("| redraw | ms | times the plain one |\n| --- | --- | --- |")
    slowest = 0.0
    for name, sampler, strength, compared in (
        ("DDIM", "DDIM", 1.0, ()),
        ("DDIM, strength 0.6", "DDIM", 0.6, ()),
        ("Heun", "Heun", 1.0, ()),
        ("UniPC", "UniPC", 1.0, ()),
        ("DDIM, three more schedules", "DDIM", 1.0, ("Exponential", "Beta", "Uniform trailing")),
    ):
        one_pass = (0.0, 0, 0.5, "steps", "", "")
        given = ("SD", sampler, "Karras", 1000, strength, "steps", 5.0, 0.0, 0.0, *one_pass)
        took = best(lambda: redraw(engine, options, [], None, compared, "log-SNR", "step", [], *given)[0].to_json())  # noqa: B023
        slowest = max(slowest, took)
        print(f"| {name} | {1000 * took:.0f} | {took / plain:.0f} |")
    print(f"\nslowest {1000 * slowest:.0f} ms; allowed are {1000 * BUDGET:.0f} ms")
    return int(slowest > BUDGET)


def best(work: Callable[[], object]) -> float:
    """The least processor time of several tries, in seconds."""
    times = []
    for _ in range(TRIES):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def compare(engine: Engine) -> int:
    """Compare /schedule with runs on a closed-form denoiser, all combinations; 1 if one differs.

    A run depends on the sampler and its list of sigmas alone, so each different list runs once.
    """
    registry, compared, runs, wrong = engine.registry, 0, 0, 0
    for sampler in registry.samplers:
        known: dict[tuple[float, ...], tuple[list[float], float]] = {}
        for schedule, steps, strength, meaning in product(registry.schedules, STEPS, STRENGTHS, MEANINGS):
            fields = dict(sampler=sampler, schedule=schedule, steps=steps, strength=strength, strength_as=meaning)
            made = preview_run(engine, fields)
            if made.run.sigmas not in known:
                known[made.run.sigmas] = ran(made.run)
                runs += 1
            compared += 1
            if not agrees(numbers(made), *known[made.run.sigmas]):
                wrong += 1
                print(f"differs: {fields}")
        print(f"{sampler}: {len(known)} different lists", flush=True)
    print(f"{compared} combinations, {runs} runs, {wrong} differ")
    return int(wrong > 0)


def ran(plan: Plan) -> tuple[list[float], float]:
    """The sigmas and the network calls that a run reports."""
    counted = Counted(GaussianDenoiser(), 1)
    result = run(plan, counted, torch.zeros(1, 1, 2, 2), (7,))
    return [float(sigma) for sigma in result.sigmas], counted.calls


def agrees(said: dict, sigmas: Sequence[float], nfe: float) -> bool:
    """Whether /schedule agrees with the run; for an adaptive sampler it knows the two ends only."""
    if said["nfe"] is None:
        return (said["sigmas"][0], said["sigmas"][-1]) == (sigmas[0], sigmas[-1])
    return said["sigmas"] == list(sigmas) and said["nfe"] == nfe


if __name__ == "__main__":
    main()
