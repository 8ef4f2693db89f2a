"""README.md tells the truth: its code runs, its flags and endpoints exist, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ROOT
from pages import served
from PIL import Image

from samplers.registry import discover
from samplers.testing import check_sampler

README = (ROOT / "README.md").read_text("utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(
    r"^(python launch\.py.*)$", "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)), re.MULTILINE
)
(PLUGIN,) = (block for block in PYTHON if "hookimpl" in block)
(SCRIPT,) = (block for block in PYTHON if "gradio_client" in block)
(DIFFUSERS,) = (block for block in PYTHON if "from diffusers" in block)
HELP = subprocess.run(
    [sys.executable, str(ROOT / "launch.py"), "--help"], capture_output=True, text=True, check=True
).stdout


def test_the_sampler_that_is_shown_is_a_plugin_that_keeps_the_contract(tmp_path):
    (tmp_path / "my_sampler.py").write_text(PLUGIN, "utf-8")
    found = discover(ROOT / "plugins", [tmp_path], packages=False)
    check_sampler(found.sampler("My Euler").item)
    assert len(PLUGIN.split('"""')[-1].split()) and len([line for line in PLUGIN.splitlines() if line.strip()]) <= 15


def test_the_script_that_is_shown_makes_a_picture(registry, tmp_path, capsys):
    with served(registry, tmp_path) as page:
        exec(compile(SCRIPT.replace("http://127.0.0.1:7860", page.url), "README.md", "exec"), shown := {})
    assert shown["files"][0].endswith(".png") and shown["info"]["seeds"] == [7]
    assert "[7] 20" in capsys.readouterr().out


def test_diffusers_draws_with_the_flow_network_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    code = DIFFUSERS.replace("rocket.png", str(tmp_path / "rocket.png"))
    exec(compile(code, "README.md", "exec"), {})
    red, _, blue = Image.open(tmp_path / "rocket.png").convert("RGB").getpixel((1, 1))
    assert blue > 150 > 100 > red, "the ground is blue"


@pytest.mark.parametrize(
    "flag",
    sorted(set(re.findall(r"--[a-z][a-z-]+", "\n".join(re.findall(r"`[^`]*launch\.py[^`]*`|`--[^`]*`", README))))),
)
def test_every_flag_that_is_named_exists(flag):
    assert flag in HELP


def test_the_two_commands_are_there():
    assert "python launch.py" in COMMANDS and "python launch.py test" in COMMANDS


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)", README))))
def test_every_link_leads_to_a_file(target):
    assert (ROOT / target).exists()


def test_every_folder_of_the_map_exists():
    (tree,) = (block for block in README.split("```")[1::2] if block.startswith("\nlaunch.py "))
    above = ROOT
    for line in tree.strip().splitlines():
        path = (above if line.startswith(" ") else ROOT) / line.split()[0]
        assert path.exists(), line
        above = above if line.startswith(" ") else path
