"""What a visitor waits for in the browser: page, first preview, tabs, Schedule; and how far the page jumps.

    python -m benchmarks.first_minute                  medians of five openings in headless Chromium at 1440x900
    python -m benchmarks.first_minute --width 390 --height 844
    python -m benchmarks.first_minute --write          and put the table into docs/tour.md

One server in this process on the embedded model, which is open already; every opening is a new browser context, so
nothing is cached. A page of Gradio with a text box and a button is opened in turn: less than that no page of Gradio can
take. Needs playwright and Chromium; CHROMIUM names another browser.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.docs_table import write_table
from benchmarks.page import PATIENCE, PROMPT, server
from benchmarks.speed import processor

# A layout shift is the share of the window that moved times how far it moved (web.dev/cls), without those that follow
# a click or a key within half a second.
WATCH = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const each of list.getEntries()) if (!each.hadRecentInput) window.shifts.push(each.value);
}).observe({type: "layout-shift", buffered: true});
"""
# Resolves with milliseconds from now, after the click on `pressed` if there is one, until `condition` holds.
UNTIL = """([pressed, condition]) => new Promise((resolve) => {
  const began = performance.now(), holds = new Function("return " + condition);
  if (pressed) document.querySelector(pressed).click();
  const look = () => holds() ? resolve(performance.now() - began) : requestAnimationFrame(look);
  look();
})"""
SHOWN = "(e => e && e.getClientRects().length > 0)(document.querySelector({selector!r}))"
USABLE = f"""(e => e && !e.disabled && e.getClientRects().length > 0)(document.querySelector("#txt2img-generate"))
  && {SHOWN.format(selector="#txt2img-prompt textarea")} && document.querySelector("#status .ready")"""
PREVIEW = (
    """(e => e && e.complete && e.naturalWidth)(document.querySelector("#txt2img-stage img[src^='data:image/jpeg']"))"""
)
FINISHED = """(e => e && e.complete && e.naturalWidth)(document.querySelector("#txt2img-gallery img[src]"))"""
NAME_TAB = """(name) => {
  [...document.querySelectorAll("button[role=tab]")].find((b) => b.innerText.trim().startsWith(name)).id = "next-tab";
}"""
SMALLEST = """
import gradio
with gradio.Blocks(analytics_enabled=False) as page:
    gradio.Textbox()
    gradio.Button("Go", elem_id="go")
print(page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")[1], flush=True)
page.block_thread()
"""
TABS = {"img2img": "#img2img-prompt textarea", "Plugins": "#plugins", "txt2img": "#txt2img-generate"}


def main() -> None:
    """Open the page some times and print the medians."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--repeat", type=int, default=5)
    flags.add_argument("--width", type=int, default=1440)
    flags.add_argument("--height", type=int, default=900)
    flags.add_argument("--write", action="store_true", help="put the table into docs/tour.md")
    given = flags.parse_args()
    from playwright.sync_api import sync_playwright

    times: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder)) as (_, url),
        smallest_page() as smallest,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(given.repeat + 1):
            for measure, address in ((opening, url), (opening_of_smallest, smallest)):
                context = browser.new_context(viewport={"width": given.width, "height": given.height})
                for name, value in measure(context.new_page(), address).items():
                    times.setdefault(name, []).append(value)
                context.close()
        browser.close()
    text = table(times, f"{given.width} x {given.height}")
    print(text)
    if given.write:
        where = f"Medians of {given.repeat}, {processor()}, rendered in software."
        write_table("tour.md", "first-minute", text + "\n\n" + where)


def table(times: Mapping[str, Sequence[float]], title: str) -> str:
    """The medians as lines of a table."""
    lines = [f"| {title} | median | at most |", "| --- | --- | --- |"]
    for name, each in times.items():
        # The first opening of all warms the server up.
        kept, digits = each[1:], 3 if "shift" in name else 2
        lines.append(f"| {name} | {median(kept):.{digits}f} | {max(kept):.{digits}f} |")
    return "\n".join(lines)


@contextmanager
def smallest_page() -> Iterator[str]:
    """The address of a page of Gradio that has next to nothing."""
    process = subprocess.Popen([sys.executable, "-c", SMALLEST], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def opening_of_smallest(page: Any, url: str) -> dict[str, float]:
    """Seconds until it can be used."""
    page.goto(url, wait_until="commit")
    page.wait_for_function(SHOWN.format(selector="#go"), polling="raf")
    return {"a page of Gradio with a text box and a button, s": page.evaluate("performance.now()") / 1000}


def opening(page: Any, url: str) -> dict[str, float]:
    """What one visitor waits for, in seconds, and the layout shifts."""
    page.set_default_timeout(PATIENCE * 1000)
    page.add_init_script(WATCH)
    page.goto(url, wait_until="commit")
    page.wait_for_function(USABLE, polling="raf")
    times = {"page usable, s": page.evaluate("performance.now()") / 1000}
    # A visitor looks first. Meanwhile what is fetched later arrives: pictures of the wall, lists, plotly.
    page.wait_for_timeout(5000)

    def until(pressed: str, condition: str) -> float:
        return page.evaluate(UNTIL, [pressed, condition]) / 1000

    page.locator("#txt2img-prompt textarea").fill(PROMPT)
    page.wait_for_timeout(500)
    times["click to first preview, s"] = until("#txt2img-generate", f"{PREVIEW} || {FINISHED}")
    until("", FINISHED)
    page.wait_for_timeout(1000)
    for tab, shown in {**TABS, "Schedule": "#schedule-plot .js-plotly-plot .main-svg"}.items():
        page.evaluate(NAME_TAB, tab)
        key = "first opening of Schedule, s" if tab == "Schedule" else "tab switch, s"
        times[key] = max(times.get(key, 0.0), until("#next-tab", SHOWN.format(selector=shown)))
        page.evaluate("document.querySelector('#next-tab').removeAttribute('id')")
        page.wait_for_timeout(700)
    shifts = page.evaluate("window.shifts")
    return times | {"largest layout shift": max(shifts, default=0.0), "sum of layout shifts": sum(shifts)}


if __name__ == "__main__":
    main()
