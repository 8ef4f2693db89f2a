"""README.md, CONTRIBUTING.md and docs/: their code runs, their flags and commands exist, their links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT
from pages import served
from PIL import Image

from samplers.registry import discover
from samplers.testing import check_sampler
from webui import command_line
from webui.draw_command import draw_flags

NAMES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "weights/README.md", "plugins/README.md"]
TEXTS = {ROOT / name: (ROOT / name).read_text("utf-8") for name in NAMES}
TEXTS |= {path: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
README, ALL = TEXTS[ROOT / "README.md"], "\n".join(TEXTS.values())
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", ALL, re.DOTALL)).splitlines()
LAUNCHES = sorted({line for line in SHELL if line.startswith("python launch.py")})
MODULES = sorted(set(re.findall(r"python -m ((?:benchmarks|training)[\w.]*)", ALL)))


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


# A block without a test below cannot be unpacked here.
PLUGIN, SCRIPT = python_blocks(README)
APIS = python_blocks(TEXTS[ROOT / "docs" / "apis.md"])
(DIFFUSERS,) = python_blocks(TEXTS[ROOT / "docs" / "weights.md"])
HELP = subprocess.run(
    [sys.executable, str(ROOT / "launch.py"), "--help"], capture_output=True, text=True, check=True
).stdout


def test_the_sampler_that_is_shown_is_a_plugin_that_keeps_the_contract(tmp_path):
    (tmp_path / "my_sampler.py").write_text(PLUGIN, "utf-8")
    found = discover(ROOT / "plugins", [tmp_path], packages=False)
    check_sampler(found.sampler("My Euler").item)
    assert len(PLUGIN.split('"""')[-1].split())
    assert len([line for line in PLUGIN.splitlines() if line.strip()]) <= 15


@pytest.fixture(scope="module")
def page(registry, tmp_path_factory):
    with served(registry, tmp_path_factory.mktemp("docs"), page_settings=dict(api=True)) as page:
        yield page


def test_the_script_that_is_shown_makes_a_picture(page, capsys):
    exec(compile(SCRIPT.replace("http://127.0.0.1:7860", page.url), "README.md", "exec"), shown := {})
    assert shown["files"][0].endswith(".png")
    assert shown["info"]["seeds"] == [7]
    assert "[7] 20" in capsys.readouterr().out


def test_clients_of_other_programs_draw_as_shown(page, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code in APIS:
        exec(compile(code.replace("http://127.0.0.1:7860", page.url), "docs/apis.md", "exec"), {})
    assert Image.open(tmp_path / "apple.png").size == (64, 64)
    assert '1 {"prompt": "red apple"' in capsys.readouterr().out


def test_diffusers_draws_with_the_flow_network_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    code = DIFFUSERS.replace("rocket.png", str(tmp_path / "rocket.png"))
    exec(compile(code, "docs/weights.md", "exec"), {})
    red, _, blue = Image.open(tmp_path / "rocket.png").convert("RGB").getpixel((1, 1))
    assert blue > 150 > 100 > red, "the ground is blue"


@pytest.mark.parametrize(
    "flag",
    sorted(set(re.findall(r"--[a-z][a-z-]+", "\n".join(re.findall(r"`[^`]*launch\.py[^`]*`|`--[^`]*`", README))))),
)
def test_every_flag_that_is_named_exists(flag):
    assert flag in HELP + draw_flags().format_help()


@pytest.mark.parametrize("command", LAUNCHES)
def test_every_command_is_understood(command):
    # The shell takes a comment away.
    flags, rest = command_line.parse(shlex.split(command, comments=True)[2:])
    if flags.command == "draw":
        rest = draw_flags().parse_args(rest) and []
    assert flags.command == "test" or not rest
    assert flags.no_setup is False


@pytest.mark.parametrize("module", MODULES)
def test_every_module_that_is_run_exists(module):
    assert importlib.util.find_spec(module)


def test_the_two_commands_are_there():
    assert {"python launch.py", "python launch.py test"} <= set(LAUNCHES)


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to headings."""
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXTS[path]):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text("utf-8")), target


def test_every_folder_of_the_map_exists():
    (tree,) = (block for block in README.split("```")[1::2] if block.startswith("\nlaunch.py "))
    above = ROOT
    for line in tree.strip().splitlines():
        path = (above if line.startswith(" ") else ROOT) / line.split()[0]
        assert path.exists(), line
        above = above if line.startswith(" ") else path


def test_the_map_names_every_folder():
    (tree,) = (block for block in README.split("```")[1::2] if block.startswith("\nlaunch.py "))
    shown = {line.split()[0] for line in tree.strip().splitlines()}
    assert {f"{path.parent.name}/" for path in (ROOT / "webui").glob("*/__init__.py")} <= shown


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 250
