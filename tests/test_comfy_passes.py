"""ComfyUI's graphs of several samplers: which one made the picture, and what the others are here."""

import json

import pytest
from conftest import toy

from webui.importers.comfyui import read_comfy
from webui.importers.imported_settings import from_external

MODELS = {"toy": toy()}


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def sampler(latent: str, **given) -> dict:
    usual = dict(seed=7, steps=20, cfg=8, sampler_name="dpmpp_2m", scheduler="karras", denoise=1.0)
    links = dict(positive=["p", 0], negative=["n", 0], model=["m", 0], latent_image=[latent, 0])
    return node("KSampler", **usual | links | given)


def advanced(latent: str, **given) -> dict:
    usual = dict(add_noise="enable", noise_seed=7, steps=25, cfg=8, sampler_name="euler", scheduler="normal")
    usual |= dict(start_at_step=0, end_at_step=10000, return_with_leftover_noise="disable")
    links = dict(positive=["p", 0], negative=["n", 0], model=["m", 0], latent_image=[latent, 0])
    return node("KSamplerAdvanced", **usual | links | given)


BASE = {
    "e": node("EmptyLatentImage", width=512, height=640, batch_size=1),
    "p": node("CLIPTextEncode", text="a bee"),
    "n": node("CLIPTextEncode", text="dog"),
    "m": node("CheckpointLoaderSimple", ckpt_name="toy.ckpt"),
    "d": node("VAEDecode", samples=["2", 0]),
    "s": node("SaveImage", images=["d", 0]),
}
TWO = BASE | {
    "1": sampler("e"),
    "u": node("LatentUpscaleBy", samples=["1", 0], upscale_method="bilinear", scale_by=1.5),
    "2": sampler("u", seed=9, steps=10, denoise=0.5, sampler_name="euler", scheduler="normal"),
}


def read(registry, graph: dict):
    offer = from_external(read_comfy({"prompt": json.dumps(graph)}), registry, MODELS)
    return offer.fields, " ".join((*offer.missing, *offer.notes))


@pytest.mark.parametrize("order", [1, -1])
def test_the_first_sampler_made_the_picture_and_the_second_is_hires_fix(registry, order):
    fields, notes = read(registry, dict(list(TWO.items())[::order]))
    assert (fields["steps"], fields["seed"], fields["sampler"], fields["schedule"]) == (20, 7, "DPM++ 2M", "Karras")
    assert (fields["width"], fields["height"], fields.get("mode")) == (512, 640, None)
    assert (fields["hires_scale"], fields["hires_strength"], fields["upscaler"]) == (1.5, 0.5, "Latent bilinear")
    assert fields["hires_steps"] == 20, "all ten steps run; here they are half of a whole run"
    assert fields["hires_sampler"] == "Euler"
    assert "other sampler" not in notes


@pytest.mark.parametrize(
    "between, scale, upscaler",
    [
        (
            {"u": node("LatentUpscale", samples=["1", 0], upscale_method="bicubic", width=1024, height=1280)},
            2,
            "Latent b",
        ),
        (
            {"u": node("LatentUpscale", samples=["1", 0], upscale_method="bilinear", width=1024, height=0)},
            2,
            "Latent b",
        ),
        (
            {
                "u": node("VAEEncode", pixels=["i", 0]),
                "i": node("ImageScale", image=["j", 0], upscale_method="lanczos", width=768, height=960),
                "j": node("VAEDecode", samples=["1", 0]),
            },
            1.5,
            "Lanczos",
        ),
        (
            {
                "u": node("VAEEncode", pixels=["i", 0]),
                "i": node("ImageScaleBy", image=["k", 0], upscale_method="area", scale_by=0.5),
                "k": node("ImageUpscaleWithModel", image=["j", 0], upscale_model=["l", 0]),
                "l": node("UpscaleModelLoader", model_name="4x-net.pth"),
                "j": node("VAEDecode", samples=["1", 0]),
            },
            2,
            None,
        ),
    ],
)
def test_how_it_was_enlarged(registry, between, scale, upscaler):
    fields, notes = read(registry, TWO | between)
    assert fields["hires_scale"] == scale
    assert (fields.get("upscaler") or "").startswith(upscaler or "")
    assert upscaler or "Upscaler '4x-net.pth' is not here" in notes


def test_a_second_pass_without_an_enlargement_is_named(registry):
    graph = TWO | {"2": sampler("1", steps=10, denoise=0.5)}
    fields, notes = read(registry, graph)
    assert (fields["steps"], "hires_scale" in fields) == (20, False)
    assert "a second pass: 10 steps of dpmpp_2m at strength 0.5." in notes


def test_a_third_pass_is_named(registry):
    graph = TWO | {"d": node("VAEDecode", samples=["3", 0]), "3": sampler("2", steps=4, denoise=0.2)}
    fields, notes = read(registry, graph)
    assert fields["hires_scale"] == 1.5
    assert "a further pass: 4 steps of dpmpp_2m at strength 0.2." in notes


def test_samplers_that_share_a_run_are_one_and_have_the_seed_of_the_noise(registry):
    graph = BASE | {
        "2": advanced("1", add_noise="disable", noise_seed=0, start_at_step=20),
        "1": advanced("e", end_at_step=20, return_with_leftover_noise="enable"),
    }
    fields, notes = read(registry, graph)
    assert (fields["seed"], fields["steps"], "hires_scale" in fields) == (7, 25, False)
    assert "start and end" not in notes and "other sampler" not in notes


def test_a_sampler_that_goes_on_with_another_checkpoint_is_a_refiner(registry):
    refined = advanced("1", add_noise="disable", start_at_step=20, model=["r", 0])
    loader = {"r": node("CheckpointLoaderSimple", ckpt_name="toy.ckpt")}
    graph = BASE | loader | {"2": refined, "1": advanced("e", end_at_step=20, return_with_leftover_noise="enable")}
    fields, notes = read(registry, graph)
    assert (fields["refiner"], fields["refiner_switch"], fields["steps"]) == ("toy", 0.8, 25)
    assert "other sampler" not in notes
    loader["r"]["inputs"]["ckpt_name"] = "lost.ckpt"
    fields, notes = read(registry, graph | loader)
    assert "refiner" not in fields and "Refiner 'lost.ckpt' is not in weights/" in notes


def test_without_noise_there_is_no_seed(registry):
    fields, notes = read(registry, BASE | {"2": advanced("e", add_noise="disable", noise_seed=5)})
    assert "seed" not in fields
    assert "does not name its seed" in notes


def test_an_advanced_sampler_that_starts_late_is_a_second_pass(registry):
    graph = TWO | {"1": advanced("e"), "2": advanced("u", start_at_step=15)}
    fields, _ = read(registry, graph)
    assert (fields["hires_strength"], fields["hires_steps"]) == (0.4, 25)


def test_the_saver_with_more_passes_counts(registry):
    preview = {"a": node("PreviewImage", images=["b", 0]), "b": node("VAEDecode", samples=["1", 0])}
    fields, _ = read(registry, preview | TWO)
    assert fields["hires_scale"] == 1.5


def test_another_picture_of_the_graph_is_told(registry):
    _, notes = read(registry, TWO | {"9": sampler("e")})
    assert "1 other sampler in the graph." in notes


def test_merged_models_are_named(registry):
    graph = TWO | {
        "m": node("ModelMergeSimple", model1=["x", 0], model2=["y", 0], ratio=0.5),
        "x": node("CheckpointLoaderSimple", ckpt_name="toy.ckpt"),
        "y": node("CheckpointLoaderSimple", ckpt_name="other.ckpt"),
    }
    fields, notes = read(registry, graph)
    assert fields["model"] == "toy"
    assert "ModelMergeSimple." in notes


def test_a_sampler_and_a_schedule_without_names_go_by_their_nodes(registry):
    graph = BASE | {
        "2": node(
            "SamplerCustom",
            noise_seed=3,
            cfg=4,
            sampler=["k", 0],
            sigmas=["g", 0],
            positive=["p", 0],
            negative=["n", 0],
            model=["m", 0],
            latent_image=["e", 0],
        ),
        "k": node("SamplerLCMUpscale", scale_ratio=1.0),
        "g": node("AlignYourStepsScheduler", steps=10),
    }
    fields, notes = read(registry, graph)
    assert (fields["steps"], fields["seed"], fields["guidance"]) == (10, 3, 4)
    assert "Sampler 'SamplerLCMUpscale': no sampler here is known to be the same" in notes
    assert "Schedule 'AlignYourStepsScheduler'" in notes


def test_two_passes_in_a_circle_end(registry):
    assert read(registry, TWO | {"1": sampler("u")})[0]["steps"] in (10, 20)
