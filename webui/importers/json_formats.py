"""The keys of programs that write their settings as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class JsonFormat:
    """How a program writes its settings.

    keys    by our name of a setting, the places where it may stand: keys joined by dots, the first that is there counts
    marks   keys that tell that JSON is of this format
    root    the key of the object that has the settings, "" for the whole
    unread  keys of settings without a counterpart here
    comfy   whether the names of samplers and schedules are ComfyUI's
    """

    program: str
    keys: Mapping[str, tuple[str, ...]]
    marks: tuple[str, ...] = ()
    root: str = ""
    unread: tuple[str, ...] = ()
    comfy: bool = False


def _format(
    program: str, marks: str = "", root: str = "", unread: str = "", comfy: bool = False, **keys: str
) -> JsonFormat:
    places = MappingProxyType({name: tuple(each.split()) for name, each in keys.items()})
    return JsonFormat(program, places, tuple(marks.split()), root, tuple(unread.split()), comfy)


IN_PARAMETERS: tuple[JsonFormat, ...] = (
    _format(
        "SwarmUI",
        marks="sui_image_params",
        root="sui_image_params",
        unread="loras controlnetmodel vae refinermodel",
        comfy=True,
        prompt="prompt",
        negative_prompt="negativeprompt",
        sampler="sampler",
        schedule="scheduler",
        model="model",
        steps="steps",
        guidance="cfgscale",
        seed="seed",
        width="width",
        height="height",
        strength="initimagecreativity",
        hires_scale="refinerupscale",
        hires_strength="refinercontrolpercentage",
        hires_steps="refinersteps",
        upscaler="refinerupscalemethod",
    ),
    _format(
        "RuinedFooocus",
        marks="Prompt base_model_name",
        unread="loras",
        comfy=True,
        prompt="Prompt",
        negative_prompt="Negative",
        sampler="sampler_name",
        schedule="scheduler",
        model="base_model_name",
        steps="steps",
        guidance="cfg",
        seed="seed",
        width="width",
        height="height",
        strength="denoise",
        clip_skip="clip_skip",
    ),
    _format(
        "Fooocus",
        marks="base_model guidance_scale",
        unread="loras styles performance refiner_model sharpness adm_guidance freeu",
        comfy=True,
        prompt="prompt",
        negative_prompt="negative_prompt",
        sampler="sampler",
        schedule="scheduler",
        model="base_model",
        steps="steps",
        guidance="guidance_scale",
        seed="seed",
        size="resolution",
        clip_skip="clip_skip",
    ),
    _format(
        "a Hugging Face Space",
        marks="num_inference_steps guidance_scale",
        unread="loras",
        prompt="prompt",
        negative_prompt="negative_prompt",
        sampler="sampler",
        model="Model",
        steps="num_inference_steps",
        guidance="guidance_scale",
        seed="seed",
        size="resolution",
        hires_scale="use_upscaler.upscale_by",
        hires_strength="use_upscaler.upscaler_strength",
        upscaler="use_upscaler.upscale_method",
    ),
)
# By the keyword of the text in the picture.
BY_KEYWORD: Mapping[str, JsonFormat] = {
    "Comment": _format(
        "NovelAI",
        unread="sm sm_dyn dynamic_thresholding uncond_scale skip_cfg_above_sigma",
        prompt="prompt v4_prompt.caption.base_caption",
        negative_prompt="uc v4_negative_prompt.caption.base_caption",
        sampler="sampler",
        schedule="noise_schedule",
        steps="steps",
        guidance="scale",
        guidance_rescale="cfg_rescale",
        seed="seed",
        width="width",
        height="height",
    ),
    "invokeai_metadata": _format(
        "InvokeAI",
        unread="loras controlnets ipAdapters ref_images t2iAdapters vae refiner_model",
        prompt="positive_prompt",
        negative_prompt="negative_prompt",
        sampler="scheduler",
        model="model.name model.model_name",
        steps="steps",
        guidance="cfg_scale",
        guidance_rescale="cfg_rescale_multiplier",
        seed="seed",
        width="width",
        height="height",
        strength="strength",
    ),
    "sd-metadata": _format(
        "InvokeAI",
        unread="image.postprocessing image.variations",
        prompt="image.prompt",
        sampler="image.sampler",
        model="model_weights",
        steps="image.steps",
        guidance="image.cfg_scale",
        seed="image.seed",
        width="image.width",
        height="image.height",
        strength="image.strength",
    ),
    "generation_data": _format(
        "Tensor.Art",
        unread="models",
        comfy=True,
        prompt="prompt",
        negative_prompt="negativePrompt",
        sampler="ksamplerName samplerName",
        schedule="schedule",
        model="baseModel.modelFileName",
        steps="steps",
        guidance="cfgScale",
        seed="seed",
        width="width",
        height="height",
        clip_skip="clipSkip",
    ),
}
