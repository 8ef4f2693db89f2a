"""The request: what a user asks for, one frozen object for the page, the API, links and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from samplers.guidance import Interval

from .feature_fields import (
    SEED,
    ClipSkip,
    Decoder,
    FeatureReuse,
    GuidanceHigh,
    GuidanceLow,
    GuidanceRescale,
    HiresModel,
    HiresSampler,
    HiresScale,
    HiresSchedule,
    HiresSteps,
    HiresStrength,
    HiresStrengthAs,
    InpaintArea,
    MaskBlur,
    MaskFill,
    Outpaint,
    Padding,
    PromptSyntax,
    Refiner,
    RefinerSwitch,
    Scale,
    SizeCondition,
    Styles,
    Upscaler,
    VariationSeed,
    VariationStrength,
)
from .field_types import Name, Number, Options, Prompt, Whole
from .fields import Setting, fields_of, problem_text
from .limits import MAX_COUNT, MAX_STEPS, SEEDS

if TYPE_CHECKING:
    from weights.model_info import ModelInfo

AnyRequest = TypeVar("AnyRequest", bound=BaseModel)


class RequestError(ValueError):
    """A request that cannot be served; the text says what is wrong and what is allowed, one sentence per problem."""


SIDE = "a whole number of pixels, or 0 for the model's own size"


# uncond + w (cond - uncond) with w = 0; recipes of distilled models write guidance 0 where they mean 1.
NO_PROMPT = "Guidance 0 leaves the prompt out and follows the negative prompt alone; 1 is no guidance."
NO_NEGATIVE = "The model takes guidance as an input, so that the negative prompt does not count."


class Request(BaseModel):
    """A picture or several from words, or from words and a picture. A new field is one annotated line here.

    Empty names, 0 for width and height and -1 for the seed mean the model's default and a random seed; `resolve`
    replaces them. Image i of a request has seed (seed + i) mod 2^32; of
    variations, it has the request's seed and variation seed + i. fit says how the input picture comes to
    width x height; with a scale it keeps its own size, and is drawn in tiles. Of a mask, white is drawn anew.
    A prompt is read with all of its syntax, or with its random choices ("fixed") or everything but weights ("weights")
    taken as words; `resolve` writes the words of its styles into it. Guidance acts at sigmas above guidance_low and up
    to guidance_high; 0 is no upper end. Without a method it is CFG.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    mode: Literal["txt2img", "img2img"] = "txt2img"
    prompt: Annotated[Prompt, Setting("Prompt")] = ""
    negative_prompt: Annotated[Prompt, Setting("Negative prompt")] = ""
    sampler: Annotated[Name, Setting("Sampler", infotext="Sampler")] = "DDIM"
    schedule: Annotated[Name, Setting("Schedule", infotext="Schedule type")] = ""
    steps: Annotated[
        Whole,
        Field(ge=1, le=MAX_STEPS),
        Setting("Steps", group="method", infotext="Steps", axis="5, 10, 20 or a range: 5..30 +5"),
    ] = 20
    guidance: Annotated[
        Number,
        Field(ge=0, le=30),
        Setting(
            "Guidance scale",
            group="method",
            step=0.1,
            infotext="CFG scale",
            axis="1, 3, 5 or a range: 0..10 +2.5",
        ),
    ] = 5.0
    width: Annotated[Whole, Field(ge=0, le=1 << 16), Setting("Width", group="size", step=8, allowed=SIDE)] = 0
    height: Annotated[Whole, Field(ge=0, le=1 << 16), Setting("Height", group="size", step=8, allowed=SIDE)] = 0
    seed: Annotated[
        Whole,
        Field(ge=-1, le=SEEDS - 1),
        Setting(
            "Seed",
            group="seed",
            infotext="Seed",
            axis="1, 2, 3 or a range: 1..4",
            allowed=SEED,
        ),
    ] = -1
    count: Annotated[Whole, Field(ge=1, le=MAX_COUNT), Setting("Count", group="seed")] = 1
    options: Options = {}
    model: Annotated[Name, Setting("Model", infotext="Model")] = ""
    schedule_options: Options = {}
    image: Annotated[Path | None, Field(strict=False), Setting(allowed="the path of a picture", needs_input=True)] = (
        None
    )
    strength: Annotated[
        Number,
        Field(ge=0.01, le=1),
        Setting(
            "Strength",
            "1 keeps nothing of the picture.",
            step=0.01,
            infotext="Denoising strength",
            axis="0.3, 0.6, 0.9 or a range: 0.2..1 +0.2",
            needs_input=True,
        ),
    ] = 0.6
    strength_as: Annotated[
        Literal["steps", "noise"],
        Setting("Strength is a", group="input", choices=("Share of the steps", "Noise level"), needs_input=True),
    ] = "steps"
    fit: Annotated[Literal["crop", "pad", "stretch"], Setting("Fit to the size", group="input", needs_input=True)] = (
        "crop"
    )
    clip_skip: ClipSkip = 1
    guidance_rescale: GuidanceRescale = 0.0
    guidance_low: GuidanceLow = 0.0
    guidance_high: GuidanceHigh = 0.0
    mask: Annotated[Path | None, Field(strict=False), Setting(allowed="the path of a picture", needs_input=True)] = None
    mask_blur: MaskBlur = 4
    mask_fill: MaskFill = "original"
    inpaint_area: InpaintArea = "whole"
    padding: Padding = 32
    outpaint: Outpaint = (0, 0, 0, 0)
    hires_scale: HiresScale = 0.0
    hires_steps: HiresSteps = 0
    hires_strength: HiresStrength = 0.5
    hires_sampler: HiresSampler = ""
    hires_schedule: HiresSchedule = ""
    upscaler: Upscaler = ""
    variation_seed: VariationSeed = -1
    variation_strength: VariationStrength = 0.0
    hires_strength_as: HiresStrengthAs = "steps"
    guidance_method: Annotated[
        Name,
        Setting(
            "Guidance method",
            "How the estimates with and without the prompt become one",
            infotext="Guidance method",
        ),
    ] = ""
    guidance_options: Options = {}
    scale: Scale = 0.0
    prompt_syntax: PromptSyntax = "full"
    styles: Styles = ()
    size_condition: SizeCondition = (0, 0, 0, 0)
    decoder: Decoder = "vae"
    hires_model: HiresModel = ""
    refiner: Refiner = ""
    refiner_switch: RefinerSwitch = 0.8
    feature_reuse: FeatureReuse = 1

    @property
    def has_input(self) -> bool:
        """Whether pictures start from an input picture."""
        return self.mode == "img2img"

    @property
    def inpaints(self) -> bool:
        """Whether a part of the input picture is kept: there is a mask, or the picture is extended."""
        return self.has_input and (self.mask is not None or any(self.outpaint))

    @property
    def is_tiled(self) -> bool:
        """Whether the input picture is enlarged and drawn in tiles of width x height."""
        return self.has_input and self.scale > 0

    def tiled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of what is drawn in tiles from an input picture of this size."""
        width, height = (max(1, round(side * self.scale)) for side in size)
        return width, height

    @property
    def enlarges(self) -> bool:
        """Whether a picture is enlarged by the upscaler before it is drawn on."""
        return self.is_hires or self.is_tiled

    @property
    def is_hires(self) -> bool:
        """Whether a second pass enlarges the picture."""
        return not self.has_input and self.hires_scale > 0

    @property
    def other_models(self) -> tuple[str, ...]:
        """The names of the models that draw beside its own: that of a second pass, and the refiner."""
        return tuple(filter(None, (self.hires_model if self.is_hires else "", self.refiner)))

    def hires_size(self, multiple: int) -> tuple[int, int]:
        """(width, height) of the second pass of a resolved request, in multiples of what the model makes."""
        width, height = (max(1, round(side * self.hires_scale / multiple)) for side in (self.width, self.height))
        return width * multiple, height * multiple

    @property
    def drawn_size(self) -> tuple[int, int]:
        """(width, height) in pixels that a resolved request draws at."""
        left, top, right, bottom = self.outpaint if self.has_input and self.inpaint_area == "whole" else (0, 0, 0, 0)
        return self.width + left + right, self.height + top + bottom

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every image of a resolved request: variations share one."""
        return (self.seed,) * self.count if self.is_varied else self.own_seeds

    @property
    def own_seeds(self) -> tuple[int, ...]:
        """What tells the images of a resolved request apart: their seeds, or those of their variations."""
        first = self.variation_seed if self.is_varied else self.seed
        return tuple((first + i) % SEEDS for i in range(self.count))

    @property
    def is_varied(self) -> bool:
        """Whether the starting noise is led away from the seed's own."""
        return self.variation_strength > 0

    @property
    def conditioning(self) -> dict[str, Any]:
        """The arguments of `Model.denoiser` beside the prompts and the guidance scale."""
        fields = fields_of(type(self)).values()
        return {field.name: getattr(self, field.name) for field in fields if field.setting.conditioning}

    def to_json(self) -> dict[str, Any]:
        """The request as JSON data, without the paths of uploads, which mean nothing elsewhere."""
        return self.model_dump(mode="json", exclude={"image", "mask"})

    def used_settings(self) -> dict[str, Any]:
        """As `to_json`, without the settings that do not count: those of an input picture, a mask, a second pass."""
        fields, groups = fields_of(type(self)), {"inpaint": self.inpaints, "hires": self.is_hires}
        groups |= {"variation": self.is_varied, "tiles": self.is_tiled, "upscaler": self.enlarges}
        groups |= {"refiner": bool(self.refiner)}

        def counts(setting: Setting) -> bool:
            wanted = not setting.needs_input if not self.has_input else not setting.needs_words
            return wanted and groups.get(setting.group, True)

        return {name: value for name, value in self.to_json().items() if counts(fields[name].setting)}

    def notes_on(self, model_info: ModelInfo) -> list[str]:
        """What its settings do on a model that one may not expect, in sentences."""
        if model_info.takes_guidance:
            # Prompts that are joined by AND are weighed against the negative one.
            return [NO_NEGATIVE] if self.negative_prompt and " AND " not in self.prompt else []
        return [NO_PROMPT] if self.guidance == 0 else []

    def guidance_at(self, sigma: float) -> float:
        """The guidance scale that counts at a noise level, by the denoiser's own rule; 1 is none."""
        return self.guidance if sigma in Interval(self.guidance_low, self.guidance_high) else 1.0


def read(fields: Mapping[str, Any], schema: type[Request] = Request) -> Request:
    """A request from untrusted fields; RequestError has one readable sentence for every wrong field."""
    return read_as(schema, fields)


def read_as(schema: type[AnyRequest], fields: Mapping[str, Any]) -> AnyRequest:
    """As `read`, for any class of requests."""
    try:
        return schema(**fields)
    except ValidationError as error:
        # A value that fits none of several types has a problem with each, and one sentence is enough.
        sentences = dict.fromkeys(problem_text(problem, fields_of(schema)) for problem in error.errors())
        raise RequestError(" ".join(sentences)) from None
    except TypeError as error:
        raise RequestError(f"The request cannot be read: {error}.") from None


def sift(fields: Mapping[str, Any], schema: type[Request] = Request) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of a request that are valid by themselves, and a sentence about each other one, by name."""
    good, problems = {}, {}
    for name, value in fields.items():
        try:
            read({name: value}, schema)
            good[name] = value
        except RequestError as error:
            problems[name] = str(error)
    return good, problems
