"""The benchmarks of speed run, at a small width, so that they work the one time that a GPU is at hand."""

import json
import os
import subprocess
import sys
from statistics import median

import torch
from conftest import ROOT

from benchmarks import gpu, speed

PYTHON = """#!/bin/sh
echo "ran $*"
[ "$2" = pytest ] && exit 5 || exit 0
"""


def test_the_script_for_a_gpu_runs_its_two_parts_into_one_log(tmp_path):
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    run = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--small"],
        cwd=tmp_path,
        env=os.environ | {"OUT": str(tmp_path / "out"), "PYTHON": str(tmp_path / "python")},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "out" / "gpu.log").read_text() == run.stdout
    tests, measured, ended = run.stdout.splitlines()[-3:]
    assert tests.startswith("ran -m pytest -n 0") and tests.endswith("tests/test_gpu.py")
    assert measured == f"ran -m benchmarks.gpu --seconds 270 --json {tmp_path}/out/gpu.json --small"
    assert ended == "exit status of the tests 5, of the benchmark 0"
    assert run.returncode == 5


def test_the_benchmark_for_a_gpu_runs_on_a_cpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--small", "--json", str(tmp_path / "gpu.json")])
    gpu.main()
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert list(rows) == [name for name, _ in gpu.ways(torch.device("cpu"), small=True)]
    assert [row for row in rows.values() if row.get("per_second", 0) <= 0] == []
    assert "| a picture of emoji, 20 guided steps and decoding | " in capsys.readouterr().out


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
