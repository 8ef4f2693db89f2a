"""Settings of other programs, built from their documented formats, are read correctly; malformed ones are refused."""

import json
import re

import pytest
from conftest import ROOT, toy
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from test_metadata import make, png

from samplers.registry import Registry
from samplers.schedule import stable_diffusion
from webui.core.feature_fields import MAX_SIGMA
from webui.core.images import PictureError
from webui.core.infotext import infotext
from webui.core.record import MetadataError, read_record
from webui.core.request import RequestError, read
from webui.importers.a1111 import read_infotext
from webui.importers.comfyui import read_comfy
from webui.importers.imported_settings import from_external, from_record, read_imported_settings
from webui.importers.sampler_names import AUTOMATIC, COMFY_LEVELS, COMFY_METHODS, LEVELS, METHODS

MODELS = {name: toy(name) for name in ("toy", "v1-5-pruned-emaonly")}
A1111 = """a (photo:1.2) of a cat, <lora:fluffy:0.8>
on a mat
Negative prompt: blurry, "low quality"
two lines
Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 3141592653, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, VAE hash: 735e4c3a44, \
Denoising strength: 0.45, Clip skip: 2, ENSD: 31337, \
Lora hashes: "fluffy: 0123456789ab", Version: v1.10.1"""
FORGE = """a cat
Steps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 1, Size: 896x1152, \
Model hash: bea01d51bd, Model: flux1-dev, Version: f2.0.1v1.10.1-previous-665, Module 1: ae, \
Diffusion in Low Bits: "Automatic (fp16 LoRA)" """
COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 156680208700286,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "euler_ancestral",
            "scheduler": "normal",
            "denoise": 1,
            "model": ["10", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15\\v1-5-pruned-emaonly.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 640, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat, 猫", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text, watermark", "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {
        "class_type": "SaveImage",
        "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]},
        "is_changed": [float("nan")],
    },
    "10": {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "fluffy.safetensors", "strength_model": 1, "model": ["4", 0], "clip": ["4", 1]},
    },
}
CUSTOM = {
    "1": {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            "noise": ["2", 0],
            "guider": ["3", 0],
            "sampler": ["4", 0],
            "sigmas": ["5", 0],
            "latent_image": ["6", 0],
        },
    },
    "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
    "3": {
        "class_type": "CFGGuider",
        "inputs": {"cfg": 3.5, "model": ["7", 0], "positive": ["8", 0], "negative": ["9", 0]},
    },
    "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m"}},
    "5": {"class_type": "KarrasScheduler", "inputs": {"steps": 12, "sigma_max": 14.6, "sigma_min": 0.03, "rho": 7}},
    "6": {"class_type": "EmptySD3LatentImage", "inputs": {"width": ["10", 0], "height": 64, "batch_size": 1}},
    "7": {"class_type": "UNETLoader", "inputs": {"unet_name": "toy.safetensors"}},
    "8": {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["11", 0], "conditioning_2": ["9", 0]}},
    "9": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad"}},
    "10": {"class_type": "PrimitiveInt", "inputs": {"value": 128}},
    "11": {"class_type": "CLIPTextEncode", "inputs": {"text": ["12", 0]}},
    "12": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "good"}},
}
WORKFLOW = {
    "nodes": [
        {
            "id": 3,
            "type": "KSampler",
            "widgets_values": [42, "randomize", 30, 7.5, "dpmpp_2m_sde", "exponential", 0.6],
            "inputs": [
                {"name": "positive", "type": "CONDITIONING", "link": 1},
                {"name": "model", "link": 2},
                {"name": "latent_image", "link": 4},
            ],
        },
        {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a cat"], "inputs": []},
        {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["toy.ckpt"]},
        {"id": 9, "type": "SaveImage", "widgets_values": ["x"], "inputs": [{"name": "images", "link": 3}]},
        {"id": 11, "type": "VAEEncode", "inputs": []},
        {"id": 12, "type": "Note", "widgets_values": {"text": "x"}},
    ],
    "links": [
        [1, 6, 0, 3, 1, "CONDITIONING"],
        [2, 4, 0, 3, 0, "MODEL"],
        [3, 3, 0, 9, 0, "IMAGE"],
        [4, 11, 0, 3, 3, "LATENT"],
    ],
}


@pytest.fixture(scope="module")
def a_record(registry):
    return make(registry)[1]


def offered(registry, text):
    return from_external(read_infotext(text), registry, MODELS)


def test_a1111(registry):
    offer = offered(registry, A1111)
    assert offer.program == "AUTOMATIC1111" and not offer.missing
    assert offer.fields == {
        "prompt": "a (photo:1.2) of a cat, <lora:fluffy:0.8>\non a mat",
        "negative_prompt": 'blurry, "low quality"\ntwo lines',
        "steps": 25,
        "sampler": "DPM++ 2M",
        "options": {},
        "schedule": "Karras",
        "schedule_options": {"rho": 7.0},
        "guidance": 6.5,
        "seed": 3141592653,
        "width": 512,
        "height": 768,
        "model": "v1-5-pruned-emaonly",
        "strength": 0.45,
        "strength_as": "steps",
        "mode": "img2img",
    } | ({"clip_skip": 2} if "clip_skip" in offer.fields else {})
    assert {"ENSD: 31337.", "VAE hash: 735e4c3a44."} <= set(
        offer.notes
    ) and "lora 'fluffy' in the prompt." in offer.notes
    assert dict(offer.rows)["Lora hashes"] == "fluffy: 0123456789ab"
    read(offer.fields)


def test_forge(registry):
    offer = offered(registry, FORGE)
    assert offer.program == "Forge" and offer.fields["schedule"] == "Uniform trailing"
    assert not offer.open
    assert offer.missing == ("Model 'flux1-dev' is not in weights/; the form keeps the model that it has.",)
    assert {"Distilled CFG Scale: 3.5.", "Module 1: ae."} <= set(offer.notes)
    assert dict(offer.rows)["Diffusion in Low Bits"] == "Automatic (fp16 LoRA)"


@pytest.mark.parametrize(
    "said, sampler, options, schedule",
    [
        ("Euler", "Euler", {}, "Uniform linspace"),
        ("Euler a", "DDIM", {"eta": 1.0}, "Uniform linspace"),
        ("DPM++ 2M Karras", "DPM++ 2M", {}, "Karras"),
        ("DPM++ 2M", "DPM++ 2M", {}, "Uniform linspace"),
        ("DPM++ 2M SDE", "DPM++ 2M SDE", {"eta": 1.0, "solver": "midpoint"}, "Uniform linspace"),
        ("DPM++ 2M, Schedule type: Automatic", "DPM++ 2M", {}, "Karras"),
        ("DPM++ 2M Karras, Schedule type: Automatic", "DPM++ 2M", {}, "Karras"),
        ("DPM++ 2M Karras, Schedule type: Exponential", "DPM++ 2M", {}, "Exponential"),
        ("Euler Ancestral Karras", "DDIM", {"eta": 1.0}, "Karras"),
        ("euler_ancestral_karras", "DDIM", {"eta": 1.0}, "Karras"),
        ("euler_simple", "Euler", {}, "Uniform trailing"),
        ("euler_beta", "Euler", {}, "Beta"),
        ("DDIM, App: SD.Next, Sampler sigma: karras", "DDIM", {"eta": 0.0}, "Karras"),
        ("DDIM, App: SD.Next, Sampler sigma: exponential", "DDIM", {"eta": 0.0}, "Exponential"),
        ("DPM++ 2M SDE, Schedule type: Automatic", "DPM++ 2M SDE", {"eta": 1.0, "solver": "midpoint"}, "Exponential"),
        ("DDIM", "DDIM", {"eta": 0.0}, "Uniform leading"),
        ("LMS Karras", "k-diffusion LMS", {"order": 4}, "Karras"),
    ],
)
def test_names_of_a1111(registry, said, sampler, options, schedule):
    fields = offered(registry, f"a\nSteps: 20, Sampler: {said}, CFG scale: 7, Seed: 1").fields
    assert (fields["sampler"], fields["options"], fields["schedule"]) == (sampler, options, schedule)


@pytest.mark.parametrize("name", ["Beta", "KL Optimal", "Align Your Steps"])
def test_a_schedule_of_the_same_name_and_other_levels_is_unmatched(registry, name):
    offer = offered(registry, f"a\nSteps: 20, Sampler: Euler, Schedule type: {name}, CFG scale: 7, Seed: 1")
    assert offer.open == {"schedule"} and "schedule" not in offer.fields


def test_what_is_nearly_the_same_says_what_is_not(registry):
    notes = offered(registry, "a\nSteps: 15, Sampler: DPM2, Schedule type: Simple, CFG scale: 7, Seed: 1").notes
    assert any("the last but one" in note for note in notes) and any("divide 1,000" in note for note in notes)


@pytest.mark.parametrize("said", ["PLMS", "UniPC", "Euler Karras Negative", "Restart", "My Sampler"])
def test_a_sampler_that_is_not_the_same_is_named_and_not_replaced(registry, said):
    offer = offered(registry, f"a\nSteps: 20, Sampler: {said}, Schedule type: Turbo, CFG scale: 7, Seed: 1")
    assert offer.open == {"sampler", "schedule"} and not {"sampler", "schedule"} & set(offer.fields)
    assert offer.missing[0] == f"Sampler {said!r}: no sampler here is known to be the same; choose one."


def test_sgm_uniform_is_trailing_to_less_than_a_timestep(registry):
    model, steps = stable_diffusion(), 12
    fields = offered(registry, f"a\nSteps: {steps}, Sampler: Euler, Schedule type: SGM Uniform, CFG scale: 7").fields
    ours = registry.schedules[fields["schedule"]].item(model, steps, **fields["schedule_options"])
    # From the top to the bottom in one step more, and without the last: as ComfyUI and A1111 have it.
    theirs = [999 - 999 * i / steps for i in range(steps)]
    assert [model.timestep(sigma) for sigma in ours[:-1]] == pytest.approx(theirs, abs=1)


def test_a_mapped_plugin_that_is_not_loaded_is_named(registry):
    fewer = Registry({"DDIM": registry.samplers["DDIM"]}, registry.schedules)
    offer = offered(fewer, "a\nSteps: 20, Sampler: DPM2 a, CFG scale: 7, Seed: 1")
    assert offer.missing[:1] == (
        "Sampler 'DPM2 a' is k-diffusion DPM2 ancestral here, and that is not loaded; choose one.",
    )


def test_the_tables_name_what_there_is(registry):
    for ours in (*METHODS.values(), *COMFY_LEVELS.values()):
        entry = registry.samplers.get(ours.name) or registry.schedules[ours.name]
        known = {option.name: option for option in entry.item.options}
        assert all(known[name].check(value) == value for name, value in ours.options.items())
    assert (
        set(COMFY_METHODS.values()) <= set(METHODS)
        and set(AUTOMATIC) <= set(METHODS)
        and set(AUTOMATIC.values()) <= set(LEVELS)
    )


def test_the_tables_are_in_the_readme():
    readme = (ROOT / "docs" / "reproducing.md").read_text("utf-8").split("## Other programs' names")[1]
    for ours in (*METHODS.values(), *COMFY_LEVELS.values()):
        assert ours.name in readme or ours.name in ("Karras", "Exponential", "Polyexponential")
    for name in COMFY_METHODS:
        assert f"`{name.removesuffix('_gpu')}`" in readme


def test_our_own_text_without_its_chunk(registry):
    _, made = make(
        registry, prompt="a, b", sampler="DPM++ 2M SDE", options={"eta": 0.5}, schedule="Karras", steps=7, seed=3
    )
    offer = offered(registry, infotext(made))
    assert offer.program == "Sigmalab" and offer.fields["options"] == {
        "eta": 0.5,
        "solver": "midpoint",
        "noise_scale": 1,
        "path": "steps",
    }
    assert offer.fields["schedule_options"] == {"rho": 7} and not offer.missing and not offer.notes


@settings(max_examples=20, deadline=None)
@given(low=st.floats(0, MAX_SIGMA), high=st.floats(0, MAX_SIGMA), guidance=st.floats(0, 30), eta=st.floats(0, 1))
@example(low=1e-05, high=0.0, guidance=7.123456789, eta=1e-12)
def test_numbers_come_back_from_the_text_to_the_last_digit(registry, a_record, low, high, guidance, eta):
    given = dict(guidance_low=low, guidance_high=high, guidance=guidance, options=dict(eta=eta))
    back = offered(registry, infotext(a_record | dict(request=a_record["request"] | given)))
    assert {name: back.fields.get(name, 0) for name in given} == given
    assert not back.notes


def test_an_interval_that_is_none_is_named(registry):
    offer = offered(registry, "a\nSteps: 20, Sampler: DDIM, Guidance interval: wide, Version: Sigmalab 1")
    assert "Guidance interval: wide." in offer.notes


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=200)


@settings(max_examples=60, deadline=None)
@given(prompt=TEXTS, negative=TEXTS)
def test_prompts_come_back_from_the_text(registry, prompt, negative):
    said = re.compile(r"^(Negative prompt:|Steps: )", re.MULTILINE)
    prompt, negative = (said.sub("", text).strip() for text in (prompt, negative))
    try:
        _, made = make(registry, prompt=prompt, negative_prompt=negative)
    except RequestError:
        # A wildcard that is not there, or choices that do not close: such a prompt draws nothing.
        reject()
    back = read_infotext(infotext(made))
    assert (back.prompt, back.negative_prompt) == (prompt, negative)


def test_comfyui(registry):
    offer = from_external(read_comfy({"prompt": json.dumps(COMFY)}), registry, MODELS)
    assert offer.program == "ComfyUI" and not offer.missing
    assert offer.fields == {
        "prompt": "a cat, 猫",
        "negative_prompt": "text, watermark",
        "sampler": "DDIM",
        "options": {"eta": 1.0},
        "schedule": "Uniform linspace",
        "schedule_options": {"whole": False},
        "model": "v1-5-pruned-emaonly",
        "steps": 20,
        "guidance": 8.0,
        "seed": 156680208700286 % 2**32,
        "width": 512,
        "height": 640,
    }
    assert any(note.startswith("Seed 156680208700286 has more than 32 bits") for note in offer.notes)
    assert "LoRA 'fluffy.safetensors'." in offer.notes


def test_comfyui_in_pieces(registry):
    offer = from_external(read_comfy({"prompt": json.dumps(CUSTOM)}), registry, MODELS)
    expected = dict(
        prompt="good",
        negative_prompt="bad",
        sampler="DPM++ 2M",
        schedule="Karras",
        steps=12,
        guidance=3.5,
        seed=7,
        width=128,
        height=64,
        model="toy",
    )
    assert {name: offer.fields.get(name) for name in expected} == expected and not offer.missing


def test_comfyui_from_the_editor(registry):
    offer = from_external(read_comfy({"workflow": json.dumps(WORKFLOW)}), registry, MODELS)
    expected = dict(
        prompt="a cat",
        sampler="DPM++ 2M SDE",
        schedule="Exponential",
        steps=30,
        guidance=7.5,
        seed=42,
        model="toy",
        strength=0.6,
        mode="img2img",
    )
    assert {name: offer.fields.get(name) for name in expected} == expected


def test_comfyui_keeps_the_two_prompts_apart(registry):
    graph = {
        "1": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "good", "clip": ["1", 0]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad", "clip": ["1", 0]}},
        "4": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["2", 0], "negative": ["3", 0]}},
        "5": {"class_type": "KSampler", "inputs": {"positive": ["4", 0], "negative": ["4", 1], "steps": 20}},
    }
    offer = from_external(read_comfy({"prompt": json.dumps(graph)}), registry, MODELS)
    assert (offer.fields["prompt"], offer.fields["negative_prompt"]) == ("good", "bad")
    assert offer.fields["clip_skip"] == 2 and "ControlNetApplyAdvanced." in offer.notes

    graph["3"] = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["2", 0]}}
    assert read_comfy({"prompt": json.dumps(graph)}).negative_prompt == ""


def test_a_hundred_thousand_openings_are_read_at_once():
    # Minutes, where every opening is looked at to the end of the text.
    assert read_infotext("<lora:a" * 100_000 + "\nSteps: 20, Sampler: Euler").unread == ()


def test_a_graph_in_a_circle_ends():
    graph = {
        "1": {"class_type": "KSampler", "inputs": {"positive": ["2", 0], "model": ["1", 0], "latent_image": ["1", 0]}},
        "2": {"class_type": "X", "inputs": {"text": ["2", 0], "conditioning": ["1", 0]}},
    }
    assert read_comfy({"prompt": json.dumps(graph)}).prompt == ""


@pytest.mark.parametrize(
    "texts",
    [
        {"prompt": "{"},
        {"prompt": "[]"},
        {"prompt": "{}"},
        {"prompt": "[" * 100_000},
        {"prompt": '{"1": {"class_type": "SaveImage"}}'},
        {"workflow": '{"nodes": 3}'},
        {"workflow": '{"nodes": []}'},
        {"workflow": '{"nodes": [1, null, {"type": 3}]}'},
        {"prompt": json.dumps({str(i): {"class_type": "KSampler"} for i in range(2_001)})},
    ],
)
def test_malformed_graphs_are_refused(texts):
    with pytest.raises(MetadataError):
        read_comfy(texts)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["3", "4", "6"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from("3 4 6 inputs class_type nodes links id type".split()), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(
    key=st.sampled_from(sorted(COMFY)),
    name=st.sampled_from("seed steps positive latent_image model text ckpt_name width class".split()),
    value=JSON,
)
def test_a_graph_with_anything_in_it_is_read_or_refused(registry, key, name, value):
    graph = json.loads(json.dumps(COMFY))
    if name == "class":
        graph[key] = value
    else:
        graph[key]["inputs"][name] = value
    for texts in (
        {"prompt": json.dumps(graph)},
        {"workflow": json.dumps(value)},
        {"workflow": json.dumps({"nodes": [value, {"type": "KSampler", "inputs": value}], "links": [value]})},
    ):
        try:
            offer = from_external(read_comfy(texts), registry, MODELS)
        except MetadataError:
            continue
        read(offer.fields)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=100), st.text(st.characters(codec="utf-8"), max_size=200))
def test_a_text_with_anything_in_it_is_read_or_refused(registry, prompt, line):
    foreign = read_infotext(f"{prompt}\nSteps: {line}")
    if foreign:
        from_external(foreign, registry, MODELS)


def test_our_own_picture_with_what_is_missing(registry):
    _, made = make(registry, sampler="Euler", schedule="Karras", seed=4, prompt="a")
    made["sampler"]["id"], made["request"]["model"] = "package/other/Euler", "gone"
    offer = from_record(read_record(made), registry, MODELS)
    assert (
        offer.open == {"sampler"}
        and "model" not in offer.fields
        and offer.fields["seed"] == 4
        and offer.fields["schedule"] == "Karras"
    )
    assert (
        offer.missing[0].startswith("Unknown sampler 'package/other/Euler'; known are") and "'gone'" in offer.missing[1]
    )


def test_pictures_are_told_apart(registry, tmp_path):
    def program(*chunks):
        return read_imported_settings(png(tmp_path / "a.png", *chunks), registry, MODELS).program

    graph = json.dumps(COMFY)
    assert (
        program(("parameters", A1111)) == "AUTOMATIC1111"
        and program(("prompt", graph), ("workflow", "{}")) == "ComfyUI"
    )
    assert program(("sigmalab", json.dumps(make(registry)[1])), ("parameters", A1111)) == "Sigmalab"
    for chunks in ([("parameters", "only words")], [("prompt", "{")], [("sigmalab", "{")]):
        with pytest.raises((MetadataError, PictureError)):
            program(*chunks)
