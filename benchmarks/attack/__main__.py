"""Attack a page piece by piece: fuzzed calls and events, many clients, half connections, kills, disks that fail.

    python -m benchmarks.attack requests --minutes 5       one part, for so long; the next time it goes on from there
    python -m benchmarks.attack requests --login           the same on a page that asks for a login
    python -m benchmarks.attack show                       what was tried so far, and every finding
    python -m benchmarks.attack write                      and put the table into docs/sharing.md

Parts: requests (10,000 calls with odd paths, bodies and values), events (5,000 events of the page, as a browser sends
them), crowd (60 clients at once without trying again), half-open (1,500 connections that send half a request), kills
(100 times `kill -9` while it draws), disks (full, read-only, vanished; needs root, to mount a small disk).

Each run starts one page of its own, on a free port and in a temporary folder, at low priority; its pictures are of the
embedded model. Case number n is drawn from (seed, part, n): so a finding can be tried again with `--from n --cases 1`.
A finding is a bare 500, a refusal without words, a traceback or a path shown, no answer for a minute, a picture that is
broken or lost, a client that was not served. Results are kept in FOLDER/results.json. POSIX systems only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.docs_table import write_table

from .clients import crowd, half_open
from .disks import disks
from .fuzz import events, requests
from .kills import kills
from .server import Page

KEPT = 200  # findings of a part that are kept
Attack = Callable[[Page, range], Iterator[tuple[int, list[str], dict[str, float]]]]


@dataclass(frozen=True)
class Part:
    """An attack, how often it is tried in all, and what the table calls that.

    run  run(page, numbers) yields (cases done, findings, measurements) as it goes
    """

    run: Attack
    cases: int
    title: str


@dataclass
class Result:
    """What came of a part: cases done, number of findings and the first, the largest of each measurement."""

    done: int = 0
    found: int = 0
    findings: list[str] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)


PARTS = {
    "requests": Part(requests, 10_000, "API requests with odd paths, bodies and values"),
    "events": Part(events, 5_000, "events of the page with odd values"),
    "crowd": Part(crowd, 60, "clients at once, each served in turn with its own seed"),
    "half-open": Part(half_open, 1_500, "connections that send half a request"),
    "kills": Part(kills, 100, "`kill -9` while it draws"),
    "disks": Part(disks, 4, "full, read-only and vanished disks"),
}


def main() -> int:
    """Run a part, or show what was found; the exit status is 0 if nothing was."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("part", choices=[*PARTS, "show", "write"])
    flags.add_argument("--minutes", type=float, default=5.0, help="end after so long (5)")
    flags.add_argument("--cases", type=int, help="cases in all, in place of the part's own number")
    flags.add_argument("--from", type=int, dest="first", help="begin at this case; nothing is kept then")
    flags.add_argument("--login", action="store_true", help="the page asks for a login, and the attacker has one")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--folder", type=Path, default=Path("attack-results"), help="where results are kept")
    given = flags.parse_args()
    file = given.folder / "results.json"
    results = {name: Result(**each) for name, each in _read(file).items()}
    if given.part in PARTS:
        name = given.part + (" with a login" if given.login else "")
        result = Result() if given.first is not None else results.setdefault(name, Result())
        first = result.done if given.first is None else given.first
        last = first + given.cases if given.first is not None else given.cases or PARTS[given.part].cases
        attack(PARTS[given.part], result, range(first, last), given)
        if given.first is None:
            given.folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({name: asdict(each) for name, each in results.items()}, indent=1), "utf-8")
        shown = {name: result}
    else:
        shown = results
    print(table(shown))
    print(*(finding for each in shown.values() for finding in each.findings), sep="\n")
    if given.part == "write":
        write_table("sharing.md", "attacks", table(shown))
    return 1 if any(each.found for each in shown.values()) else 0


def attack(part: Part, result: Result, numbers: range, given: argparse.Namespace) -> None:
    """Try these cases, or as many as there is time for, and add what came of them to the result."""
    os.nice(10)
    end = time.monotonic() + 60 * given.minutes
    with Page.started(given.login, given.seed) as page:
        for done, findings, measured in part.run(page, numbers):
            result.done += done
            result.found += len(findings)
            result.findings += findings[: max(0, KEPT - len(result.findings))]
            for name, value in measured.items():
                result.measured[name] = max(value, result.measured.get(name, value))
            print(f"\r{result.done} tried, {result.found} found", end="", file=sys.stderr, flush=True)
            if time.monotonic() > end:
                break
        lines = page.console.read_text("utf-8", "replace").splitlines()
    errors = Counter(line[:150] for line in lines if re.match(r"[\w.]*(Error|Exception|Failed)\b", line))
    print(f"\nOn its console, {len(lines)} lines:", *errors.most_common(15), sep="\n  ", file=sys.stderr)


def table(results: dict[str, Result]) -> str:
    """The results as a table of Markdown."""
    rows = ["| What was tried | How often | Found | Measured, at most |", "| --- | --- | --- | --- |"]
    for name, each in results.items():
        kind, _, login = name.partition(" ")
        measured = ", ".join(f"{text} {value:.3g}" for text, value in each.measured.items())
        rows.append(
            f"| {PARTS[kind].title} {login}".rstrip() + f" | {each.done} | {each.found or 'nothing'} | {measured} |"
        )
    return "\n".join(rows)


def _read(file: Path) -> dict[str, dict]:
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
