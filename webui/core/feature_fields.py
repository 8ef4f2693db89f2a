"""The annotations of the fields of guidance, inpainting, enlarging, variations and prompts, in `Request`'s order."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .field_types import MAX_NAMES, Name, Names, Number, Sides, Whole
from .fields import Setting
from .limits import MAX_STEPS, SEEDS

SCALE = "0, which is off, or a number from 1 to 8"
HIRES_SCALE = "0, which is off, or a number from 1 to 4"
SIDES = "four whole numbers of pixels from 0 on: left, top, right, bottom"
SEED = f"a whole number from 0 to {SEEDS - 1}, or -1 for a random one"
MAX_SIGMA = 1e6
MOST_REUSE = 5

ClipSkip = Annotated[
    Whole,
    Field(ge=1, le=12),
    Setting(
        "Clip skip",
        "1 is the text encoder's last layer",
        group="conditioning",
        infotext="Clip skip",
        axis="1, 2",
        conditioning=True,
    ),
]
GuidanceRescale = Annotated[
    Number,
    Field(ge=0, le=1),
    Setting(
        "Guidance rescale",
        "Against over-exposure; 0 is off",
        group="conditioning",
        step=0.05,
        infotext="Guidance rescale",
        axis="0, 0.7 or a range: 0..1 +0.25",
        conditioning=True,
    ),
]
GuidanceLow = Annotated[
    Number,
    Field(ge=0, le=MAX_SIGMA),
    Setting(
        "Guide above sigma",
        "Below it, no guidance",
        group="interval",
        axis="0, 0.5, 1",
        allowed="a sigma, a number from 0 on",
        conditioning=True,
    ),
]
GuidanceHigh = Annotated[
    Number,
    Field(ge=0, le=MAX_SIGMA),
    Setting(
        "Guide up to sigma",
        "0 is no upper end",
        group="interval",
        axis="0, 5, 10",
        allowed="a sigma, a number from 0 on, where 0 is no upper end",
        conditioning=True,
    ),
]
MaskBlur = Annotated[
    Whole,
    Field(ge=0, le=64),
    Setting(
        "Mask blur",
        "Pixels over which its edge fades out",
        group="inpaint",
        step=1,
        infotext="Mask blur",
        axis="0, 4, 8",
        needs_input=True,
    ),
]
MaskFill = Annotated[
    Literal["original", "noise", "flat"],
    Setting(
        "Under the mask",
        group="inpaint",
        choices=("Picture", "Noise", "Colours around"),
        infotext="Mask fill",
        axis="original, noise, flat",
        needs_input=True,
    ),
]
InpaintArea = Annotated[
    Literal["whole", "masked"],
    Setting(
        "Draw",
        group="inpaint",
        choices=("Whole picture", "Only masked area"),
        infotext="Inpaint area",
        needs_input=True,
    ),
]
Padding = Annotated[
    Whole,
    Field(ge=0, le=512),
    Setting(
        "Padding",
        "Pixels around the masked area",
        group="inpaint",
        step=4,
        infotext="Masked area padding",
        axis="0, 32, 64",
        needs_input=True,
    ),
]
Outpaint = Annotated[
    Sides,
    Field(strict=False),
    Setting(
        "Extend by pixels: left, top, right, bottom",
        group="inpaint",
        infotext="Outpaint",
        allowed=SIDES,
        needs_input=True,
    ),
]
HiresScale = Annotated[
    Number,
    Field(ge=0, le=4),
    Setting(
        "Enlarge by",
        "1 to 4; 0 is off",
        group="hires",
        step=0.25,
        infotext="Hires upscale",
        axis="0, 1.5, 2",
        allowed=HIRES_SCALE,
        needs_words=True,
    ),
]
HiresSteps = Annotated[
    Whole,
    Field(ge=0, le=MAX_STEPS),
    Setting(
        "Hires steps",
        "0: as above",
        group="hires",
        infotext="Hires steps",
        axis="5, 10, 20",
        needs_words=True,
    ),
]
HiresStrength = Annotated[
    Number,
    Field(ge=0.01, le=1),
    Setting(
        "Hires strength",
        "1 keeps nothing of the first pass",
        group="hires",
        step=0.01,
        infotext="Hires strength",
        axis="0.3, 0.5, 0.7 or a range: 0.2..0.8 +0.2",
        needs_words=True,
    ),
]
HiresSampler = Annotated[Name, Setting("Hires sampler", group="hires", infotext="Hires sampler", needs_words=True)]
HiresSchedule = Annotated[
    Name, Setting("Hires schedule", group="hires", infotext="Hires schedule type", needs_words=True)
]
HiresModel = Annotated[
    Name,
    Setting(
        "Hires model",
        "Draws the second pass, such as a refiner",
        group="hires",
        infotext="Hires checkpoint",
        needs_words=True,
    ),
]
Refiner = Annotated[
    Name,
    Setting(
        "Refiner",
        "Another model of the same latents, which draws the last steps",
        group="refiner",
        infotext="Refiner",
        axis="the names of models",
    ),
]
RefinerSwitch = Annotated[
    Number,
    Field(ge=0, le=1),
    Setting(
        "Refiner switch at",
        "Share of the model's time steps before it; 1 is off",
        group="refiner",
        step=0.05,
        infotext="Refiner switch at",
        axis="0.6, 0.8, 1 or a range: 0.5..1 +0.1",
    ),
]
Upscaler = Annotated[
    Name,
    Setting("Upscaler", group="upscaler", infotext="Hires upscaler", axis="Lanczos, Latent bicubic"),
]
Scale = Annotated[
    Number,
    Field(ge=0, le=8),
    Setting(
        "Enlarge by",
        "In tiles of width × height; 0 is off",
        group="tiles",
        step=0.25,
        infotext="Tiled upscale",
        axis="1, 2, 3",
        allowed=SCALE,
        needs_input=True,
    ),
]
VariationSeed = Annotated[
    Whole,
    Field(ge=-1, le=SEEDS - 1),
    Setting(
        "Variation seed",
        "-1: another each time",
        group="variation",
        infotext="Variation seed",
        axis="1, 2, 3 or a range: 1..4",
        allowed=SEED,
    ),
]
VariationStrength = Annotated[
    Number,
    Field(ge=0, le=1),
    Setting(
        "Variation strength",
        "How far from the seed's picture; 0 is off",
        group="variation",
        step=0.01,
        infotext="Variation seed strength",
        axis="0, 0.1, 0.2 or a range: 0..1 +0.25",
    ),
]
HiresStrengthAs = Annotated[
    Literal["steps", "noise"],
    Setting("Hires strength is a", group="hires", choices=("Share of the steps", "Noise level"), needs_words=True),
]
PromptSyntax = Annotated[
    Literal["full", "fixed", "weights"],
    Setting(
        "Prompt syntax",
        "Beside weights: [a:b:0.5], AND, {a|b}",
        group="conditioning",
        choices=("All of it", "No random choices", "Weights only"),
        infotext="Prompt syntax",
        conditioning=True,
    ),
]
Styles = Annotated[
    Names,
    Field(strict=False),
    Setting(
        "Styles",
        "Words that are kept by name, put around the prompt",
        axis="the names of kept styles",
        allowed=f"at most {MAX_NAMES} names of styles",
    ),
]
SizeCondition = Annotated[
    Sides,
    Field(strict=False),
    Setting(
        "SDXL: told width, height, left, top",
        "Size and crop of the original, in pixels; 0: the picture's own",
        group="conditioning",
        infotext="Size condition",
        allowed="four whole numbers of pixels from 0 on: width, height, left, top",
        conditioning=True,
    ),
]
FeatureReuse = Annotated[
    Whole,
    Field(ge=1, le=MOST_REUSE),
    Setting(
        "Feature reuse",
        "One call in so many is whole; 1 is off",
        group="conditioning",
        infotext="Feature reuse",
        axis="1, 2, 3",
        conditioning=True,
    ),
]
Decoder = Annotated[
    Literal["vae", "quick"],
    Setting(
        "Decoded by",
        "The quick one, of weights/previews/, draws drafts",
        group="conditioning",
        choices=("The model's VAE", "Quick decoder"),
        infotext="Decoder",
        axis="vae, quick",
    ),
]
