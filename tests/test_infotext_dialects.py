"""The "parameters" text as A1111's old versions, Forge, SD.Next, Civitai and nodes of ComfyUI write it."""

import pytest
from test_importers import offered

from webui.core.menus import UPSCALERS
from webui.core.request import read
from webui.importers.a1111 import read_infotext
from webui.importers.imported_settings import from_external


@pytest.mark.parametrize(
    "said, opened",
    [
        ("UniPC Karras", {"sampler"}),
        ("UniPC", {"sampler", "schedule"}),
        ("My Sampler, Schedule type: Automatic", {"sampler", "schedule"}),
        ("DDIM, App: SD.Next", {"schedule"}),
    ],
)
def test_menus_are_left_open_for_what_is_not_known(registry, said, opened):
    offer = offered(registry, f"a\nSteps: 20, Sampler: {said}, CFG scale: 7, Seed: 1")
    assert offer.open == opened


def test_what_a_picture_does_not_name_is_told(registry):
    offer = offered(registry, "a\nSteps: 20, Size: 64x64, CFG scale: 6, App: SD.Next, Version: 56a8aea")
    assert offer.program == "SD.Next" and offer.missing == (
        "The picture names no sampler; choose one.",
        "The picture names no schedule; choose one.",
        "The picture names no model; the form keeps the model that it has.",
    )
    assert "The picture does not name its seed; the form keeps what it has." in offer.notes


HIRES = "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6, Seed: 1, Size: 512x512"


@pytest.mark.parametrize(
    "line, expected",
    [
        (
            f"{HIRES}, Denoising strength: 0.25, Hires upscale: 1.5, Hires steps: 10, Hires upscaler: Latent (bicubic)",
            dict(hires_scale=1.5, hires_steps=40, hires_strength=0.25, upscaler="Latent bicubic", width=512),
        ),
        (f"{HIRES}, Denoising strength: 0.5, Hires resize: 1024x1024", dict(hires_scale=2.0, hires_steps=40)),
        (
            f"{HIRES.replace('512x512', '1024x1536')}, Denoising strength: 0.7, First pass size: 512x768",
            dict(width=512, height=768, hires_scale=2.0, hires_strength=0.7),
        ),
        (
            f"{HIRES.replace('512x512', '1024x1024')}, Denoising strength: 0.7, First pass size: 0x0",
            dict(width=512, height=512, hires_scale=2.0),
        ),
        (
            f"{HIRES}, Hires upscale: 2, Denoising strength: 0.5, Hires sampler: Euler, Hires schedule type: Karras",
            dict(hires_sampler="Euler", hires_schedule="Karras"),
        ),
    ],
)
def test_a_second_pass_is_no_img2img(registry, line, expected):
    fields = offered(registry, f"a\n{line}").fields
    assert {name: fields.get(name) for name in expected} == expected
    assert not {"mode", "strength"} & set(fields)
    read(fields)


def test_names_in_a_second_pass_without_an_equal_are_told(registry):
    line = f"{HIRES}, Denoising strength: 0.3, Hires upscale: 2, Hires upscaler: ESRGAN, Hires sampler: Euler a"
    offer = offered(registry, f"a\n{line}")
    assert not {"upscaler", "hires_sampler"} & set(offer.fields)
    assert any(note.startswith("Upscaler 'ESRGAN' is not here") for note in offer.notes)
    assert any(note.startswith("Hires sampler 'Euler a'") for note in offer.notes)


@pytest.mark.parametrize(
    "said, file",
    [
        ("R-ESRGAN 4x+ Anime6B", "RealESRGAN_x4plus_anime_6B"),
        ("4x-UltraSharp", "4x-UltraSharp"),
        ("ESRGAN-UltraSharp-4x", "4x-UltraSharp"),
        ("model-4x_ultrasharp.pth", "4x-UltraSharp"),
        ("Latent (nearest-exact)", "Latent nearest-exact"),
        ("ESRGAN_4x", None),
        ("R-ESRGAN 4x+", None),
    ],
)
def test_an_upscaler_is_found_among_the_files(registry, said, file):
    here = [*UPSCALERS, "RealESRGAN_x4plus_anime_6B", "4x-UltraSharp"]
    text = f"a\n{HIRES}, Denoising strength: 0.5, Hires upscale: 2, Hires upscaler: {said}"
    offer = from_external(read_infotext(text), registry, {}, upscalers=here)
    assert offer.fields.get("upscaler") == file
    assert any(note.startswith("Upscaler") for note in offer.notes) == (file is None)


def test_the_schedule_of_a_second_pass_with_the_default_options_is_kept(registry):
    line = f"{HIRES}, Denoising strength: 0.5, Hires upscale: 2, Hires schedule type: Simple"
    assert offered(registry, f"a\n{line}").fields["hires_schedule"] == "Uniform trailing"


@pytest.mark.parametrize(
    "text",
    [
        "a\nNegative prompt: b\nSampler: Euler, Steps: 20, Seed: 7",
        "a\n  Negative prompt: b\n\t Steps: 20, Sampler: Euler, Seed: 7",
        "a\nNegative prompt: b\nSteps:20, Sampler:Euler, Seed:7",
        "a\nNegative prompt: b\nSteps: 20, Sampler: Euler, Seed: 7\nTemplate: c, Seed: 8\nNegative Template: d",
        'a\nNegative prompt: b\nSteps: 20, Civitai resources: [{"a": 1, "Seed": 8}, 2], Sampler: Euler, Seed: 7',
    ],
)
def test_the_line_of_settings_is_found(registry, text):
    offer = offered(registry, text)
    expected = dict(prompt="a", negative_prompt="b", steps=20, sampler="Euler", seed=7)
    assert {name: offer.fields.get(name) for name in expected} == expected
    assert not any("Template" in note for note in offer.notes)


def test_names_of_settings_in_other_cases_and_lists_as_they_are(registry):
    found = read_infotext('a\nSteps: 20, CFG Scale: 8.0, Civitai resources: [{"b": 1, "c": "x, y: z"}], Seed: 3')
    assert found.values["guidance"] == "8.0" and found.program == "Civitai"
    assert found.shown["Civitai resources"] == '[{"b": 1, "c": "x, y: z"}]' and found.values["seed"] == "3"


def test_the_first_negative_prompt_counts():
    found = read_infotext("a\nNegative prompt: b\nNegative prompt: c\nSteps: 20, Sampler: Euler, Seed: 7")
    assert (found.prompt, found.negative_prompt) == ("a", "b\nNegative prompt: c")


@pytest.mark.parametrize("version", ["classic", "f2.0", "neo-2.28", "f1.0.0v2-v1.10.1RC"])
def test_forge_is_told_by_its_versions(version):
    assert read_infotext(f"a\nSteps: 20, Sampler: Euler, Version: {version}").program == "Forge"


@pytest.mark.parametrize(
    "prompt",
    ["a __colour__ cat", "{red|blue}", "2::cat::", "{{cat}}", "(cat)++", "(a, b).and()", "embedding:cat"],
)
def test_syntax_that_is_drawn_as_words_is_told(registry, prompt):
    assert any("drawn as words" in note for note in offered(registry, f"x {prompt}\n{HIRES}").notes)


@pytest.mark.parametrize(
    "prompt, syntax",
    [("[cat:dog:0.5]", "fixed"), ("[a|b]", "fixed"), ("a AND b", "fixed"), ("{a|b}", "fixed"), ("(a:1.2), [b]", None)],
)
def test_prompts_of_kindred_programs_keep_their_syntax(registry, prompt, syntax):
    offer = offered(registry, f"{prompt}\n{HIRES}")
    assert offer.fields.get("prompt_syntax") == syntax
    assert any("drawn as words" in note for note in offer.notes) == (prompt == "{a|b}")


def test_and_in_a_negative_prompt_is_a_word_as_it_was_there(registry):
    offer = offered(registry, f"[a|b]\nNegative prompt: c AND d\n{HIRES}")
    assert offer.fields["prompt_syntax"] == "weights"
    assert "prompt_syntax" not in offered(registry, f"a cat\nNegative prompt: BAD HANDS\n{HIRES}").fields
