"""The commands draw, info and check: their flags are the fields of a request, and their output is for programs, too."""

import json
import shutil
import subprocess
from typing import Annotated

import pytest
from conftest import ROOT, ToyModel
from PIL import Image

from webui import command_line, draw_command, info_command
from webui.check_command import check_files
from webui.completion_command import print_completion
from webui.core.field_types import Whole
from webui.core.fields import Setting, fields_of
from webui.core.request import Request, RequestError
from webui.draw_command import draw_flags, draw_pictures, request_of
from webui.info_command import show_files
from webui.settings import settings_without_page

SETTINGS = "Steps: 20, Sampler: Restart, Schedule type: Karras, CFG scale: 7, Seed: 3, Version: v1.9.3"
WRONG = """
from itertools import pairwise
from samplers import Step, hookimpl, sampler
@sampler("Wrong", order=2, calls=1)
def wrong(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = x + (lower - sigma) * (x - denoised) / sigma
        yield Step(x, lower, denoised)
@hookimpl
def register_samplers():
    return [wrong]
"""


@pytest.fixture
def toy_drawing(monkeypatch):
    """`draw` on a closed-form network, which costs nothing."""
    monkeypatch.setattr(draw_command, "open_model", lambda found, device: ToyModel(found))


def draw(tmp_path, *arguments: str) -> int:
    return draw_pictures([*arguments, "--no-plugins", "-o", str(tmp_path / "out")], ROOT)


def asked(*arguments: str) -> Request:
    return request_of(draw_flags().parse_args(["a bee", *arguments]))


def test_every_field_has_a_flag():
    text = draw_flags().format_help()
    for name, field in fields_of(Request).items():
        flag = name.removesuffix("s") if field.kind is dict else name
        assert name in ("mode", "prompt") or f"--{flag.replace('_', '-')}" in text


def test_a_new_field_has_one_too():
    class Grown(Request):
        glow: Annotated[Whole, Setting("Glow", allowed="a whole number")] = 0

    flags = draw_flags(Grown).parse_args(["a bee", "--glow", "4"])
    assert request_of(flags, Grown).glow == 4


def test_values_are_read_by_their_fields():
    request = asked(*"--steps 7 --guidance 2.5 -n 3 -N dog --option eta=0.5 --option a=b".split())
    assert (request.mode, request.steps, request.guidance, request.count) == ("txt2img", 7, 2.5, 3)
    assert request.negative_prompt == "dog"
    assert request.options == {"eta": 0.5, "a": "b"}


def test_a_picture_makes_it_img2img():
    request = asked("--image", "a.png", "--outpaint", "8,0,8,0", "--strength-as", "noise")
    assert (request.mode, request.image.name, request.outpaint) == ("img2img", "a.png", (8, 0, 8, 0))


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--steps", "many"], "Steps must be a whole number from 1 to 1000."),
        (["--steps", "0"], "Steps must be a whole number from 1 to 1000."),
        (["--fit", "squeeze"], "Fit must be 'crop', 'pad' or 'stretch'."),
        (["--option", "eta"], "'eta' is no NAME=VALUE"),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_the_page(arguments, told):
    with pytest.raises(RequestError) as error:
        asked(*arguments)
    assert told in str(error.value)


def test_draw_prints_the_pictures_in_the_folder(tmp_path, toy_drawing, capsys):
    assert draw(tmp_path, "a bee", "--steps", "2", "-n", "2", "--seed", "5", "--width", "128", "-q") == 0
    files = capsys.readouterr().out.splitlines()
    assert sorted(files) == sorted(str(path) for path in (tmp_path / "out").glob("*.png"))
    assert {Image.open(file).width for file in files} == {128} and len(files) == 2


def test_draw_as_json(tmp_path, toy_drawing, capsys):
    assert draw(tmp_path, "a bee", "--steps", "2", "--seed", "5", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [picture["seed"] for picture in said["pictures"]] == said["info"]["seeds"] == [5]


def test_a_wrong_request_has_status_2(tmp_path, capsys):
    assert draw(tmp_path, "a bee", "--sampler", "Nothing", "--json") == 2
    said = capsys.readouterr()
    assert "Unknown sampler 'Nothing'; known are Calibrated, DDIM" in json.loads(said.out)["error"]
    assert said.err.startswith("sigmalab: Unknown sampler")


def test_a_failing_run_has_status_1_and_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    def broken(found, device):
        model = ToyModel(found)

        def fail_in_the_second_picture(sigma):
            if len(model.calls) == 2:
                raise RuntimeError("the network is ill")

        model.on_call = fail_in_the_second_picture
        return model

    monkeypatch.setattr(draw_command, "open_model", broken)
    assert draw(tmp_path, "a bee", "--steps", "2", "-n", "2", "--one-at-a-time", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert "the network is ill" in said["error"]
    assert len(said["pictures"]) == 1


def test_ctrl_c_has_status_130(tmp_path, toy_drawing, monkeypatch, capsys):
    def interrupted(flags, job):
        raise KeyboardInterrupt

    monkeypatch.setattr(draw_command, "_watch", interrupted)
    assert draw(tmp_path, "a bee", "--steps", "2") == 130


def described(tmp_path, files, as_json: bool = False) -> int:
    flags, _ = command_line.parse(["info", "x.png", "--no-plugins"])
    return show_files(settings_without_page(flags, ROOT), files, as_json)


def test_info_shows_a_foreign_picture_and_what_is_not_matched(tmp_path, capsys):
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("parameters", f"a \x1b[31mbee\nin two lines\n{SETTINGS}")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=text)
    assert described(tmp_path, [tmp_path / "a.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"Program: AUTOMATIC1111", "Steps: 20", "Prompt: a \\x1b[31mbee\\nin two lines"} <= set(lines)
    assert any(line.startswith("Not matched: Sampler 'Restart'") for line in lines)


def test_info_as_json_names_the_files_that_cannot_be_read(tmp_path, toy_drawing, capsys):
    assert draw(tmp_path, "a bee", "--steps", "2", "--seed", "5", "-q") == 0
    file = capsys.readouterr().out.strip()
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    assert described(tmp_path, [file, tmp_path / "bare.png"], as_json=True) == 1
    ours, bare = json.loads(capsys.readouterr().out)
    assert (ours["program"], ours["request"]["seed"], ours["settings"]["Seed"]) == ("Sigmalab", 5, "5")
    assert bare.keys() == {"file", "error"}


def test_printable_leaves_other_scripts_alone():
    assert info_command.printable("çà 日本") == "çà 日本"


def test_a_good_plugin_passes(capsys):
    assert check_files([ROOT / "plugins" / "euler.py"]) == 0
    assert capsys.readouterr().out == "euler.py: Euler: 19 of 19 checks passed\n"


def test_schedules_and_guidances_are_checked_as_well(capsys):
    assert check_files([ROOT / "plugins" / "guidance.py", ROOT / "plugins" / "schedules.py"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "guidance.py: APG: 1 of 1 checks passed" in lines
    assert not any(": CFG:" in line for line in lines), "it comes with the program"
    assert "schedules.py: Karras: 1 of 1 checks passed" in lines


def test_a_plugin_that_fails_a_check_is_told_what_to_look_at(tmp_path, capsys):
    (tmp_path / "wrong.py").write_text(WRONG, "utf-8")
    assert check_files([tmp_path / "wrong.py"], as_json=True) == 1
    (report,) = json.loads(capsys.readouterr().out)
    failed = [result for result in report["results"] if result["problem"]]
    assert [result["check"] for result in failed] == ["order_as_declared"]
    assert "expected order 2, as declared; got 1" in failed[0]["problem"]


@pytest.mark.parametrize(
    "name, status, told",
    [
        ("import_error.py", 1, "not loaded: import_error.py: ModuleNotFoundError"),
        ("no_hook.py", 1, "it implements no hook"),
        ("rising_schedule.py", 1, "not loaded"),
        ("nothing.py", 2, "is no plugin; give a .py file"),
    ],
)
def test_what_cannot_be_checked_is_told(name, status, told, capsys):
    assert check_files([ROOT / "tests" / "hostile" / name]) == status
    said = capsys.readouterr()
    assert told in said.out + said.err


def test_a_sampler_of_distilled_networks_is_checked_with_one(capsys):
    assert check_files([ROOT / "plugins" / "lcm.py"], distilled=True) == 0


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_sigmalab
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_completion(tmp_path_factory):
    """The script for bash, and what it completes a line of words to."""
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    flags, _ = command_line.parse(["completion", "bash", "--no-plugins"])
    file = tmp_path_factory.mktemp("completion") / "sigmalab.bash"
    with pytest.MonkeyPatch.context() as patch, file.open("w") as output:
        patch.setattr("sys.stdout", output)
        assert print_completion(settings_without_page(flags, ROOT), flags.shell) == 0

    def complete(*words: str) -> set[str]:
        command = ["bash", "-c", COMPLETE, "bash", str(file), "sigmalab", *words]
        # The shell's own function, compopt, complains outside of an interactive shell.
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return set(ran.stdout.splitlines())

    return complete


@pytest.mark.parametrize(
    "words, completed",
    [
        (("",), {"draw", "info", "check", "calibrate", "replay", "account", "completion"}),
        (("draw", "a bee", "--sampler", "DPM++\\ 2"), {"DPM++ 2M", "DPM++ 2S", "DPM++ 2M SDE", "DPM++ 2M CFG++"}),
        (("draw", "a bee", "--model", ""), {"emoji", "emoji-flow"}),
        (("draw", "a bee", "--mask-fill", ""), {"original", "noise", "flat"}),
        (("calibrate", "--prom"), {"--prompts"}),
        (("info", "READ"), {"README.md"}),
        (("--hos",), {"--host"}),
    ],
)
def test_a_shell_completes(bash_completion, words, completed):
    assert bash_completion(*words) == completed


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_command_and_its_names(shell, capsys):
    flags, _ = command_line.parse(["completion", shell, "--no-plugins"])
    print_completion(settings_without_page(flags, ROOT), flags.shell)
    text = capsys.readouterr().out
    assert "launch.py" in text.splitlines()[0] and "Karras" in text and "hires-sampler" in text
