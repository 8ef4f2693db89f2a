"""What the page adds to the network: one picture of the embedded model, drawn bare, by the engine, the API and a click.

    python -m benchmarks.page                  network, engine and API in turn, medians and ratios
    python -m benchmarks.page --browser        and a click on Generate in headless Chromium, until the picture is seen
    python -m benchmarks.page --start          and the start: from the command to the page, and to the first picture

One server in this process, as `launch.py` serves it; the API's client is a process of its own, as a script is. All
sides are measured in turn, so that whatever else the machine does meets each of them. CHROMIUM names another browser.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.error import URLError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

ROOT = Path(__file__).parent.parent
PROMPT, STEPS, GUIDANCE, SEED = "red apple", 20, 5.0, 7
PATIENCE = 120.0  # seconds until a start has failed
Measure = Callable[[], float]


def main() -> None:
    """Measure what is asked for and print the tables."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--repeat", type=int, default=7, help="how often each side is measured (7)")
    flags.add_argument("--browser", action="store_true", help="also measure a click; needs playwright and Chromium")
    flags.add_argument("--start", action="store_true", help="also measure the start of the program")
    given = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(table(measure_picture(Path(folder), given.repeat, given.browser)))
        if given.start:
            starts = [measure_start(Path(folder)) for _ in range(max(2, given.repeat // 2))]
            page, picture = (median(times) for times in zip(*starts, strict=True))
            print(f"\nFrom the command to the page {page:.1f} s, to the first picture {picture:.1f} s.")


def table(times: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """The medians as a table; the first side is what the others are compared with."""
    medians = {name: [median(column) for column in zip(*each, strict=True)] for name, each in times.items()}
    base = next(iter(medians.values()))[0]
    rows = [f"| {name} | {wall:.3f} | {wall / base:.2f} | {cpu:.3f} |" for name, (wall, cpu) in medians.items()]
    head = "| one picture | seconds | ratio | processor seconds of the server |"
    return "\n".join((head, "|---|---|---|---|", *rows))


def measure_picture(folder: Path, repeat: int, browser: bool) -> dict[str, list[tuple[float, float]]]:
    """(seconds, the server's processor seconds) for the same picture, by side, in turn after one round to warm up."""
    with ExitStack() as stack:
        engine, url = stack.enter_context(server(folder))
        sides: dict[str, Measure] = {"network and decoder": bare(engine), "engine": lambda: through_engine(engine)}
        sides["API (gradio_client)"] = stack.enter_context(api_client(url))
        if browser:
            sides["click (Chromium)"] = stack.enter_context(_clicker(url))
        return in_turn(sides, repeat)


def in_turn(sides: Mapping[str, Measure], repeat: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds, this process's processor seconds) of each side, in turn after one round to warm up."""
    for side in sides.values():
        side()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeat):
        for name, side in sides.items():
            before = time.process_time()
            times[name].append((side(), time.process_time() - before))
    return times


@contextmanager
def server(folder: Path, model: str | None = None) -> Iterator[tuple[Any, str]]:
    """The page on a model, by default the embedded one, which is open: (engine, address)."""
    from samplers.registry import discover
    from webui.app import open_page
    from webui.engine.engine import Engine
    from webui.page import build_page
    from webui.settings import Settings, free_port

    os.environ["GRADIO_TEMP_DIR"] = str(folder / "served")
    port = free_port("127.0.0.1", 7900)
    outputs, weights = folder / "outputs", ROOT / "weights"
    settings = Settings(ROOT, port=port, model=model, outputs=outputs, weights=weights, plugin_packages=False)
    engine = Engine(discover(ROOT / "plugins", packages=False), settings)
    page = build_page(engine)
    url = open_page(page, engine)
    engine.warm_up()
    try:
        yield engine, url
    finally:
        engine.close()
        page.close(verbose=False)


def _request() -> Any:
    from webui.core.request import Request

    return Request(prompt=PROMPT, steps=STEPS, guidance=GUIDANCE, seed=SEED)


def bare(engine: Any) -> Measure:
    """The network calls of a run and the decoder, without a sampler or a file, on the engine's own model and thread."""
    import torch

    from samplers.noise import Noise

    resolved = engine.resolve(_request())
    info, sigmas = resolved.model_info, resolved.plan.sigmas

    def draw(model: Any) -> float:
        began = time.perf_counter()
        side = info.defaults.size
        noise = Noise([SEED], "initial")(torch.zeros(1, *model.latents_shape(side, side)))
        denoise = model.denoiser(PROMPT, "", GUIDANCE)
        for sigma in sigmas[:-1]:
            denoised = denoise(noise * sigma, sigma)
        model.decode(denoised)
        return time.perf_counter() - began

    return lambda: engine.ask(info.name, draw).result(PATIENCE)


def through_engine(engine: Any) -> float:
    """Seconds of a picture that the engine is asked for."""
    began = time.perf_counter()
    job = engine.submit(_request(), previews=False)
    outcome = job.wait(PATIENCE)
    seconds = time.perf_counter() - began
    engine.abandon(job)
    if not job.pictures:
        raise RuntimeError(f"the engine drew nothing: {outcome}")
    return seconds


@contextmanager
def api_client(url: str) -> Iterator[Measure]:
    """gradio_client in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _connect, (url,)) as pool:
        yield lambda: pool.submit(_through_client).result(PATIENCE)


def _connect(url: str) -> None:
    from gradio_client import Client  # type: ignore[import-untyped]  # it has no py.typed

    globals()["client"] = Client(url, verbose=False)


def _through_client() -> float:
    began = time.perf_counter()
    files, _ = globals()["client"].predict(PROMPT, steps=STEPS, guidance=GUIDANCE, seed=SEED, api_name="/txt2img")
    if len(files) != 1:
        raise RuntimeError(f"the API answered {files}")
    return time.perf_counter() - began


@contextmanager
def _clicker(url: str) -> Iterator[Measure]:
    """A click on Generate, until another picture than before is shown and loaded; clocked by the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(url)
        page.get_by_label("Prompt", exact=True).first.fill(PROMPT)
        page.wait_for_selector("#status .ready", timeout=PATIENCE * 1000)
        page.wait_for_timeout(2000)

        def measure() -> float:
            seconds = page.evaluate(CLICK)
            page.wait_for_timeout(500)
            return seconds / 1000

        yield measure
        browser.close()


# Resolves with milliseconds from the click to a picture that is not the one before and that the browser has decoded.
CLICK = """() => new Promise((resolve) => {
  const picture = () => document.querySelector("#txt2img-gallery img[src]");
  const before = picture() && picture().src, began = performance.now();
  const look = () => {
    const now = picture();
    if (now && now.src !== before && now.complete && now.naturalWidth) resolve(performance.now() - began);
    else setTimeout(look, 4);
  };
  document.querySelector("#txt2img-generate").click();
  look();
})"""


def measure_start(folder: Path) -> tuple[float, float]:
    """(seconds from the command until the page answers, until the first picture that was asked for then)."""
    from webui.settings import free_port

    port = free_port("127.0.0.1", 7950)
    command = [sys.executable, "launch.py", "--no-setup", "--no-browser", "--port", str(port), "--outputs", str(folder)]
    began = time.perf_counter()
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        while not _answers(url):
            if time.perf_counter() - began > PATIENCE or program.poll() is not None:
                raise RuntimeError("the page did not open")
            time.sleep(0.02)
        page = time.perf_counter() - began
        _draw(f"{url}/gradio_api")
        return page, time.perf_counter() - began
    finally:
        program.send_signal(signal.SIGTERM)
        program.wait(PATIENCE)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=PATIENCE) as answer:
            return answer.status == 200
    except URLError:
        return False


def _draw(api: str) -> None:
    with urlopen(f"{api}/info", timeout=PATIENCE) as answer:
        parameters = json.load(answer)["named_endpoints"]["/txt2img"]["parameters"]
    defaults = [parameter.get("parameter_default") for parameter in parameters[1:]]
    endpoint, body = f"{api}/call/txt2img", json.dumps({"data": [PROMPT, *defaults]}).encode()
    with urlopen(HttpRequest(endpoint, body, {"content-type": "application/json"}), timeout=PATIENCE) as answer:
        event = json.load(answer)["event_id"]
    with urlopen(f"{endpoint}/{event}", timeout=PATIENCE) as stream:
        told = stream.read().decode()
    if "event: complete" not in told:
        raise RuntimeError(f"the first picture failed: {told[-300:]}")


if __name__ == "__main__":
    main()
