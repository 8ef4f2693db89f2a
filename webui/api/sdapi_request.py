"""From a body of `/sdapi/v1` to the fields of a request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webui.core.limits import MAX_STEPS, nearest_size
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.importers.external_request import SAME, whole_run
from weights.model_info import ModelInfo

from .method_names import known_model, method_fields, upscaler_named
from .picture_bodies import write_base64, write_inverted
from .sdapi_bodies import Drawing, Img2Img, Txt2Img

FITS = ("stretch", "crop", "pad", "stretch")
FILLS = ("flat", "original", "noise", "flat")
# Options of samplers by the names of A1111's fields.
CHURN = {"s_churn": ("churn", "s_churn"), "s_tmin": ("churn_to", "s_tmin"), "s_tmax": ("churn_from", "s_tmax")}
CHURN |= {"s_noise": ("churn_noise", "s_noise")}


@dataclass(frozen=True)
class Translator:
    """Makes requests for an engine. fit: sizes that the model does not make become the nearest that it makes."""

    engine: Engine
    fit: bool = False

    def txt2img(self, body: Txt2Img, options: dict[str, Any]) -> dict[str, Any]:
        """The fields of txt2img. Raises RequestError.

        options  the caller's, see `SdapiOptions`
        """
        fields = self._common(body, options) | {"mode": "txt2img"}
        return fields | self._second_pass(body, fields) if body.enable_hr else fields

    def img2img(self, body: Img2Img, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """The fields of img2img; its pictures are written into a folder. Raises RequestError."""
        if len(body.init_images) != 1:
            raise RequestError(f"init_images has {len(body.init_images)} pictures; it must have one.")
        fields = self._common(body, options) | {"mode": "img2img"}
        fields["image"] = write_base64(body.init_images[0], folder / "image", "init_images")
        fields |= {"strength": body.denoising_strength, "fit": FITS[body.resize_mode]}
        if body.mask:
            mask = write_base64(body.mask, folder / "mask", "mask")
            blur = body.mask_blur if body.mask_blur is not None else max(body.mask_blur_x, body.mask_blur_y)
            fields |= {
                "mask": write_inverted(mask, self.engine.limits) if body.inpainting_mask_invert else mask,
                "mask_blur": blur,
                "mask_fill": FILLS[body.inpainting_fill],
                "inpaint_area": "masked" if body.inpaint_full_res else "whole",
                "padding": body.inpaint_full_res_padding,
            }
        return fields

    def fitted(self, width: int, height: int, model: str) -> tuple[int, int]:
        """The size that is drawn where this one is asked for."""
        info = self._info(model) if self.fit else None
        return nearest_size(width, height, info, self.engine.limits) if info else (width, height)

    def _info(self, model: str) -> ModelInfo | None:
        """The model of this name, "" is the default one; None if it is not there, which the engine will say."""
        models = self.engine.models()
        return models.get(model or self.engine.settings.model or next(iter(models), ""))

    def _common(self, body: Drawing, options: dict[str, Any]) -> dict[str, Any]:
        scripts = [body.script_name, *body.alwayson_scripts]
        if any(scripts):
            raise RequestError(f"There is no script {next(filter(None, scripts))!r} here; send the request without it.")
        options = options | body.override_settings
        fields: dict[str, Any] = {
            "prompt": body.prompt,
            "negative_prompt": body.negative_prompt,
            "styles": body.styles,
            "seed": body.seed,
            "count": body.batch_size * body.n_iter,
            **({} if body.steps is None else {"steps": body.steps}),
            **({} if body.cfg_scale is None else {"guidance": body.cfg_scale}),
        }
        if body.subseed_strength:
            fields |= {"variation_seed": body.subseed, "variation_strength": body.subseed_strength}
        if name := options.get("sd_model_checkpoint"):
            fields["model"] = known_model(str(name), self.engine.models())
        if (name := body.refiner_checkpoint).casefold() not in (*SAME, "none"):
            fields |= {"refiner": known_model(name, self.engine.models()), "refiner_switch": body.refiner_switch_at}
        if skip := options.get("CLIP_stop_at_last_layers"):
            fields["clip_skip"] = skip
        fields |= self._method(body)
        fields["width"], fields["height"] = self.fitted(body.width, body.height, fields.get("model", ""))
        return fields

    def _method(self, body: Drawing) -> dict[str, Any]:
        fields = method_fields(body.sampler_name or body.sampler_index, body.scheduler, self.engine.registry)
        if "sampler" not in fields:
            return fields
        known = {option.name for option in self.engine.registry.sampler(fields["sampler"]).item.options}
        options = dict(fields.get("options", {}))
        if body.eta is not None and "eta" in known:
            options["eta"] = body.eta
        if body.s_churn:
            for field, names in CHURN.items():
                options |= {name: getattr(body, field) for name in names if name in known}
        return fields | {"options": options}

    def _second_pass(self, body: Txt2Img, fields: dict[str, Any]) -> dict[str, Any]:
        scale = body.hr_scale
        if (body.hr_resize_x or body.hr_resize_y) and (info := self._info(fields.get("model", ""))):
            width, height = fields["width"] or info.defaults.size, fields["height"] or info.defaults.size
            scale = max(body.hr_resize_x / width, body.hr_resize_y / height)
        name = body.hr_checkpoint_name
        second = method_fields(body.hr_sampler_name, body.hr_scheduler, self.engine.registry)
        steps = body.hr_second_pass_steps or fields.get("steps") or Request.model_fields["steps"].default
        return {
            "hires_scale": scale,
            "hires_strength": body.denoising_strength,
            # All of A1111's steps of a second pass run; here they are a share of a whole run.
            "hires_steps": min(MAX_STEPS, math.ceil(whole_run(steps, body.denoising_strength))),
            "hires_sampler": second.get("sampler", ""),
            "hires_schedule": second.get("schedule", ""),
            "upscaler": upscaler_named(body.hr_upscaler, self.engine.upscalers()),
            **({"hires_model": known_model(name, self.engine.models())} if name.casefold() not in SAME else {}),
        }
