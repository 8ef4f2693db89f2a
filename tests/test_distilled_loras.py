"""Distilled LoRAs by the names that people have them under, and settings that can be run as they are."""

from dataclasses import replace

import gradio as gr
import pytest

from samplers.registry import Registry
from webui.core.distilled_loras import METHODS, few_steps_in, few_steps_of
from webui.core.request import Request, read

NAMES = {
    "lcm-lora-sdv1-5": ("LCM", 4, 1),
    "lcm_sdxl_lora_weights": ("LCM", 4, 1),
    "Hyper-SD15-1step-lora": ("TCD", 4, 1),
    "Hyper-SDXL-8steps-CFG-lora": ("DDIM", 8, 5),
    "Hyper-SDXL-2steps-lora": ("DDIM", 2, 1),
    "TCD-SD15-LoRA": ("TCD", 4, 1),
    "sdxl_lightning_8step_lora": ("Euler", 8, 1),
    "dmd2_sdxl_4step_lora_fp16": ("LCM", 4, 1),
    "sd_xl_turbo_lora_v1": ("Euler", 4, 1),
}


@pytest.mark.parametrize("name", NAMES)
def test_published_names_have_the_settings_of_their_authors(name):
    found = few_steps_of(name)
    assert (found.sampler, found.steps, found.guidance) == NAMES[name]


@pytest.mark.parametrize("name", ["blueprint", "hyperrealism", "turbocharged", "tcdx", "my-30steps-style", ""])
def test_others_are_usual_ones(name):
    assert few_steps_of(name) is None


def test_a_model_of_such_a_name_is_one_too(emoji):
    named = replace(emoji.info, name="DreamShaperXL_Lightning_8steps")
    assert few_steps_in("a cat", named) == few_steps_of("lightning-8steps")
    assert few_steps_in("a cat <lora:tcd-b>", named) == few_steps_of("tcd-b")
    assert few_steps_in("a cat", emoji.info) is None


def test_the_first_that_acts_in_a_prompt_counts():
    prompt = "<lora:lcm-a:0> <lora:blueprint> a cat <lora:tcd-b:0.8> <lora:dmd2>"
    assert few_steps_in(prompt) == few_steps_of("tcd-b")
    assert few_steps_in("a cat <lora:x:y>") is None


@pytest.mark.parametrize("found", [found for _, found in METHODS], ids=str)
def test_the_settings_are_a_request_that_runs(found, registry: Registry):
    request = read(found.fields, Request)
    assert registry.sampler(request.sampler).item.resolve(request.options).items() >= found.options.items()
    assert registry.schedule(request.schedule)


def test_the_button_tells_what_it_does():
    from webui.tabs.form.lora_menu import few_steps_button

    shown = few_steps_button("a cat <lora:lcm-lora-sdv1-5>")
    said = "Use sampler LCM, 4 steps, guidance 1, schedule Uniform trailing"
    assert (shown["visible"], shown["value"]) == (True, said)
    assert few_steps_button("a cat") == gr.update(visible=False, value="")
