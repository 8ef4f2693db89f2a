"""The repository is formatted, linted and typed, as .pre-commit-config.yaml has it before every commit."""

import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

CHECKS = ["ruff check .", "ruff format --check .", "mypy"]


@pytest.mark.parametrize("check", CHECKS)
def test_check_passes(check):
    result = subprocess.run([sys.executable, "-m", *check.split()], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_pre_commit_runs_the_same_checks():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == [f".venv/bin/python -m {check}" for check in CHECKS]
