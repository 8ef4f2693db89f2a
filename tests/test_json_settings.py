"""Settings as NovelAI, InvokeAI, SwarmUI and others write them; the places of ComfyUI's graphs in JPEG and WebP."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from test_importers import COMFY, JSON, MODELS
from test_metadata import png

from webui.core.images import PictureError
from webui.core.record import MetadataError
from webui.core.request import read
from webui.importers.imported_settings import from_external, read_imported_settings
from webui.importers.json_formats import BY_KEYWORD, IN_PARAMETERS
from webui.importers.json_settings import read_json_parameters, read_keyword

COMMENT = {"prompt": "a 猫", "uc": "bad", "steps": 23, "scale": 5.0, "seed": 7, "width": 832, "height": 1216}
COMMENT |= {
    "sampler": "k_euler_ancestral",
    "noise_schedule": "karras",
    "cfg_rescale": 0.25,
    "sm": True,
    "sm_dyn": False,
}
NOVELAI = {"Software": "NovelAI", "Description": "a", "Comment": json.dumps(COMMENT)}
OLD_COMMENT = {"steps": 50, "sampler": "k_lms", "seed": 3, "scale": 10.0, "uc": "bad"}
INVOKE = {"positive_prompt": "a", "negative_prompt": "bad", "width": 512, "height": 768, "seed": 7, "cfg_scale": 6.5}
INVOKE |= {"steps": 24, "scheduler": "dpmpp_2m_k", "model": {"name": "toy"}, "loras": [{"weight": 1}]}
OLD_INVOKE = {"model_weights": "toy", "image": {"prompt": [{"prompt": "a [bad]", "weight": 1}], "steps": 50, "seed": 7}}
OLD_INVOKE["image"] |= {"sampler": "k_lms", "cfg_scale": 5, "width": 512, "height": 768}
DREAM = '"a [bad]" -s 50 -S 7 -W 512 -H 768 -C 5 -A k_lms -G 0.9'
SWARM = {"prompt": "a", "negativeprompt": "bad", "model": "toy", "seed": 7, "steps": 20, "cfgscale": 7.0}
SWARM |= {"width": 512, "height": 768, "sampler": "euler_ancestral", "scheduler": "karras"}
SWARM |= {"refinerupscale": 1.5, "refinercontrolpercentage": 0.25, "refinerupscalemethod": "latent-bicubic"}
RUINED = {"Prompt": "a", "Negative": "bad", "steps": 30, "cfg": 8, "width": 512, "height": 768, "seed": 7}
RUINED |= {"sampler_name": "dpmpp_2m_sde_gpu", "scheduler": "karras", "base_model_name": "toy.safetensors"}
FOOOCUS = {
    "prompt": "a",
    "negative_prompt": "bad",
    "base_model": "toy",
    "guidance_scale": 4.0,
    "steps": 30,
    "seed": "7",
}
FOOOCUS |= {"resolution": "(512, 768)", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "styles": ["x"]}
SPACE = {"prompt": "a", "negative_prompt": "bad", "resolution": "512 x 768", "guidance_scale": 5.5, "seed": 7}
SPACE |= {"num_inference_steps": 24, "sampler": "DPM++ 2M Karras", "Model": "toy", "use_upscaler": None}
TENSOR = {"prompt": "a", "negativePrompt": "bad", "width": 512, "height": 768, "steps": 25, "cfgScale": 7, "seed": "-1"}
TENSOR |= {"ksamplerName": "euler", "schedule": "karras", "baseModel": {"modelFileName": "toy"}, "clipSkip": 2}
SIZE = dict(width=512, height=768)
BOTH = dict(prompt="a", negative_prompt="bad", seed=7)
PNGS = {
    "NovelAI": (
        NOVELAI,
        BOTH | dict(prompt="a 猫", sampler="DDIM", schedule="Karras", steps=23, guidance_rescale=0.25, height=1216),
    ),
    "early NovelAI": (
        NOVELAI | {"Comment": json.dumps(OLD_COMMENT)},
        dict(prompt="a", negative_prompt="bad", sampler="k-diffusion LMS", steps=50, guidance=10.0),
    ),
    "InvokeAI": (
        {"invokeai_metadata": json.dumps(INVOKE)},
        BOTH | SIZE | dict(sampler="DPM++ 2M", schedule="Karras", model="toy", guidance=6.5),
    ),
    "early InvokeAI": (
        {"sd-metadata": json.dumps(OLD_INVOKE), "Dream": DREAM},
        BOTH | SIZE | dict(sampler="k-diffusion LMS", model="toy", steps=50),
    ),
    "first InvokeAI": ({"Dream": DREAM}, BOTH | SIZE | dict(sampler="k-diffusion LMS", guidance=5.0, steps=50)),
    "SwarmUI": (
        {"parameters": json.dumps({"sui_image_params": SWARM}, indent=2), "prompt": json.dumps(COMFY)},
        BOTH
        | SIZE
        | dict(sampler="DDIM", hires_scale=1.5, hires_strength=0.25, upscaler="Latent bicubic", hires_steps=None),
    ),
    "RuinedFooocus": ({"parameters": json.dumps(RUINED)}, BOTH | SIZE | dict(sampler="DPM++ 2M SDE", model="toy")),
    "Fooocus": ({"parameters": json.dumps(FOOOCUS)}, BOTH | SIZE | dict(sampler="DPM++ 2M SDE", model="toy")),
    "a Hugging Face Space": ({"parameters": json.dumps(SPACE)}, BOTH | SIZE | dict(sampler="DPM++ 2M", steps=24)),
    "Tensor.Art": (
        {"generation_data": json.dumps(TENSOR) + "\0"},
        SIZE | dict(sampler="Euler", schedule="Karras", clip_skip=2, seed=None),
    ),
}


@pytest.mark.parametrize("program", PNGS)
def test_the_settings_of(registry, tmp_path, program):
    texts, expected = PNGS[program]
    found = read_imported_settings(png(tmp_path / "a.png", *texts.items()), registry, MODELS)
    assert found.program == program.removeprefix("early ").removeprefix("first ")
    assert {name: found.fields.get(name) for name in expected} == expected
    read(found.fields)


def test_what_has_no_equal_is_named(registry, tmp_path):
    found = read_imported_settings(png(tmp_path / "a.png", *NOVELAI.items()), registry, MODELS)
    assert "Sm: true." in found.notes and not any("Sm dyn" in note for note in found.notes)
    found = read_imported_settings(png(tmp_path / "b.png", *PNGS["first InvokeAI"][0].items()), registry, MODELS)
    assert found.open == {"schedule"} and "The picture names no schedule; choose one." in found.missing


def test_an_editors_comment_is_no_setting(registry, tmp_path):
    with pytest.raises(MetadataError, match="carries no settings"):
        read_imported_settings(png(tmp_path / "a.png", ("Comment", "Created with GIMP")), registry, MODELS)


GRAPH = json.dumps(COMFY)
EXIFS = {
    "tags of the picture": ({0x010E: "Workflow: {}", 0x010F: f"Prompt: {GRAPH}"}, {}),
    "a comment beside EXIF": ({0x9286: json.dumps({"prompt": COMFY, "workflow": {}})}, {}),
    "a graph as the comment": ({}, {0x9286: b"UNICODE\0" + GRAPH.encode("utf-16-be")}),
}


@pytest.mark.parametrize("place", EXIFS)
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_graphs_in(registry, tmp_path, place, kind):
    exif = Image.Exif()
    outer, inner = EXIFS[place]
    exif.update(outer)
    exif.get_ifd(ExifTags.IFD.Exif).update(inner)
    Image.new("RGB", (8, 8)).save(tmp_path / "a", kind, exif=exif.tobytes())
    found = read_imported_settings(tmp_path / "a", registry, MODELS)
    assert found.program == "ComfyUI" and found.fields["steps"] == 20 and found.fields["height"] == 640


def test_novelai_in_webp(registry, tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[0x9286] = b"ASCII\0\0\0" + json.dumps(NOVELAI).encode()
    Image.new("RGB", (8, 8)).save(tmp_path / "a", "WEBP", exif=exif.tobytes())
    found = read_imported_settings(tmp_path / "a", registry, MODELS)
    assert found.program == "NovelAI" and found.fields["prompt"] == "a 猫"


@pytest.mark.parametrize("raw, prompt", [("a 猫 é".encode(), "a 猫 é"), ("a é".encode("latin-1"), "a é")])
def test_a_text_chunk_is_utf8_where_it_can_be(registry, tmp_path, raw, prompt):
    chunks = PngInfo()
    chunks.add(b"tEXt", b"parameters\0" + raw + b"\nSteps: 20, Sampler: Euler, Seed: 1")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    assert read_imported_settings(tmp_path / "a.png", registry, MODELS).fields["prompt"] == prompt


def test_a_graph_says_more_than_a_nodes_text(registry, tmp_path):
    text = "unknown\nSteps: 20, Sampler: euler_simple, CFG Scale: 8.0, Seed: 0, Version: ComfyUI"
    found = read_imported_settings(png(tmp_path / "a.png", ("parameters", text), ("prompt", GRAPH)), registry, MODELS)
    assert found.fields["prompt"] == "a cat, 猫"
    # One that cannot be read gives way.
    found = read_imported_settings(png(tmp_path / "b.png", ("parameters", text), ("prompt", "{}")), registry, MODELS)
    assert found.fields["prompt"] == "unknown" and found.fields["schedule"] == "Uniform trailing"


KEYS = sorted(
    {place for each in (*IN_PARAMETERS, *BY_KEYWORD.values()) for places in each.keys.values() for place in places}
)


@settings(max_examples=100, deadline=None)
@given(known=st.sampled_from(IN_PARAMETERS), values=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8))
def test_anything_is_read_or_refused(registry, known, values):
    text = json.dumps(dict.fromkeys(known.marks, "x") | values | ({known.root: values} if known.root else {}))
    texts = dict.fromkeys([*BY_KEYWORD, "Dream", "Description"], text)
    for found in (read_json_parameters(text), read_keyword(texts)):
        if found is not None:
            try:
                read(from_external(found, registry, MODELS).fields)
            except (MetadataError, PictureError):
                pass
