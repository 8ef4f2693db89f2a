"""The bodies of `/sdapi/v1`: the fields of A1111's API that mean something here; all others are ignored.

What is left out or null is as on the page, or the default given here where A1111's API has its own meaning of nothing.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Base64 = Annotated[str, Field(description="a PNG, JPEG or WebP as base64, with or without data:image/png;base64,")]


class Body(BaseModel):
    """Any body: unknown fields are ignored, and a null is as good as nothing."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class Drawing(Body):
    """What txt2img and img2img have in common."""

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] = Field(default_factory=list, description="names of /prompt-styles")
    seed: int = Field(-1, description="-1 is a random one; picture i has seed + i")
    subseed: int = Field(-1, description="seed of the variation")
    subseed_strength: float = 0.0
    sampler_name: str = Field("", description="a name of /samplers, of A1111 or of ComfyUI; with its schedule, or not")
    sampler_index: str = Field("", description="the same, where sampler_name is not given")
    scheduler: str = Field("", description="a name of /schedulers; empty or Automatic is the model's own")
    batch_size: int = Field(1, ge=1, description="batch_size x n_iter pictures are drawn, batch_size at once")
    n_iter: int = Field(1, ge=1)
    steps: int | None = None
    cfg_scale: float | None = None
    width: int = Field(0, description="0 is the model's own size")
    height: int = 0
    eta: float | None = Field(None, description="of samplers that have it, where one is named")
    s_churn: float = Field(0.0, description="of Euler and Heun, as are s_tmin, s_tmax and s_noise")
    s_tmin: float = 0.0
    s_tmax: float = Field(0.0, description="0 is no limit")
    s_noise: float = 1.0
    denoising_strength: float = 0.75
    refiner_checkpoint: str = Field("", description="a model that draws the last steps")
    refiner_switch_at: float = Field(0.8, description="share of the time steps before it; 1 is off")
    override_settings: dict[str, Any] = Field(
        default_factory=dict, description="sd_model_checkpoint and CLIP_stop_at_last_layers act for this request"
    )
    script_name: str = ""
    alwayson_scripts: dict[str, Any] = {}
    send_images: bool = Field(True, description="False leaves the pictures out of the answer; they are saved anyway")

    @property
    def together(self) -> int | None:
        """How many pictures are drawn at once at most; None leaves that to the engine."""
        return self.batch_size if self.n_iter > 1 else None


class Txt2Img(Drawing):
    """Pictures from words."""

    enable_hr: bool = Field(False, description="a second pass enlarges the picture")
    hr_scale: float = 2.0
    hr_upscaler: str = Field("", description="a name of /upscalers or /latent-upscale-modes")
    hr_second_pass_steps: int = Field(0, description="steps that run in the second pass; 0 is as many as in the first")
    hr_resize_x: int = Field(0, description="width after the second pass, in place of hr_scale")
    hr_resize_y: int = 0
    hr_sampler_name: str = ""
    hr_checkpoint_name: str = Field("", description="the model of the second pass; empty is that of the first")
    hr_scheduler: str = ""


class Img2Img(Drawing):
    """Pictures from a picture and words."""

    init_images: list[Base64] = Field(description="one picture; it starts all of them")
    resize_mode: int = Field(0, ge=0, le=3, description="0 stretches, 1 crops, 2 pads, 3 stretches")
    mask: Base64 = Field("", description="white is drawn anew")
    mask_blur: int | None = Field(None, description="pixels; 4 if nothing is given")
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    inpainting_fill: int = Field(
        0, ge=0, le=3, description="0 colours around, 1 the picture, 2 noise, 3 colours around"
    )
    inpaint_full_res: bool = Field(True, description="draw the masked area only")
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int = 0


class OneImage(Body):
    """A picture."""

    image: Base64


class NamedImage(Body):
    """A picture with a name."""

    data: Base64
    name: str = ""


class Upscale(Body):
    """How extra-single-image enlarges."""

    resize_mode: int = Field(0, ge=0, le=1, description="0 by upscaling_resize, 1 to upscaling_resize_w x _h")
    upscaling_resize: float = Field(2.0, gt=0, le=8)
    upscaling_resize_w: int = Field(512, ge=1, le=1 << 14)
    upscaling_resize_h: int = Field(512, ge=1, le=1 << 14)
    upscaling_crop: bool = Field(True, description="cut what is beyond that size; else the picture is padded to it")
    upscaler_1: str = Field("None", description="a name of /upscalers")
    upscaler_2: str = "None"


class ExtraSingle(Upscale):
    """Enlarge a picture."""

    image: Base64


class ExtraBatch(Upscale):
    """Enlarge pictures."""

    imageList: list[NamedImage]
