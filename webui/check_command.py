"""`python launch.py check FILE...`: the report of the plugin kit on plugin files, for people and as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .core.plugin_check import PluginReport, check_plugin


def check_files(files: Sequence[Path], as_json: bool = False, distilled: bool = False) -> int:
    """Check plugins and print what was found; 0 if all passed, 1 if one did not, 2 for a file that is no plugin.

    distilled  the samplers are for networks that answer with the end of the flow
    """
    for file in files:
        if not (file.is_file() and file.suffix == ".py") and not (file / "__init__.py").is_file():
            print(f"sigmalab: {file} is no plugin; give a .py file or a folder with __init__.py", file=sys.stderr)
            return 2
    reports = []
    for file in files:
        # What a plugin prints must not end up in the middle of the report.
        with contextlib.redirect_stdout(sys.stderr):
            report = check_plugin(file, distilled)
        reports.append(report)
        if not as_json:
            print_report(report)
    if as_json:
        print(json.dumps([report.to_json() for report in reports], indent=2))
    return 0 if all(report.passed for report in reports) else 1


def print_report(report: PluginReport) -> None:
    """Print a report: a line for each sampler, schedule or guidance, and below it each check that failed."""
    if not report.results and not report.broken:
        print(f"{report.file}: it registers no sampler, no schedule and no guidance")
    for broken in report.broken:
        print(f"{report.file}: not loaded: {broken}")
    for name in dict.fromkeys(result.name for result in report.results):
        own = [result for result in report.results if result.name == name]
        failed = [result for result in own if result.problem]
        print(f"{report.file}: {name}: {len(own) - len(failed)} of {len(own)} checks passed")
        for result in failed:
            print(f"  {result.check}: {result.about}\n    {result.problem}")
