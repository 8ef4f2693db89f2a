"""The benchmarks of speed run, at a small width, so that they work the one time that a GPU is at hand."""

import json
import os
import subprocess
import sys
from statistics import median

import torch
from conftest import ROOT

from benchmarks import gpu, speed


def test_the_script_for_a_gpu_runs_on_a_cpu(tmp_path):
    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--small"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert list(rows) == [name for name, _ in gpu.ways(torch.device("cpu"), small=True)]
    assert all(row.get("per_second", 0) > 0 for row in rows.values()), rows
    assert "exit status of the tests 0, of the benchmark 0" in (tmp_path / "gpu.log").read_text() == run.stdout


def test_a_way_that_fails_is_a_row_that_says_why():
    def fails():
        raise RuntimeError("out of everything\nlong trace")

    row = gpu.measured(fails, torch.device("cpu"), small=True)
    assert row == dict(problem="RuntimeError: out of everything")
    rows = {
        "float16, eager": dict(per_second=50.0, ready=1.0),
        "float16, CUDA graph": dict(per_second=100.0, ready=2.0),
        "x": row,
    }
    text = gpu.table(dict(device="G", torch="1", rows=rows))
    assert "| float16, CUDA graph | 100 | 2.00 | 2 s |  |" in text and "| x | RuntimeError: out of everything |" in text


def test_shares_are_medians_of_both_sides():
    sides = {
        speed.DIFFUSERS: speed.Side(None, calls=[4.0, 2.0, 2.0], decodings=[10.0]),
        "openvino float32": speed.Side(None, calls=[1.0, 1.0, 9.0], decodings=[5.0], error=2e-6),
    }
    assert sides[speed.DIFFUSERS].picture == 20 * median([4.0, 2.0, 2.0]) + 10
    text = speed.table(sides, {"openvino float32": 1.1}, threads=1, size=64)
    assert "| openvino float32 | 0.50 | 0.50 | 0.50 | 2e-06 | 1.10 |" in text
