"""What single files of the original latent diffusion code (CompVis, Stability AI) share, whatever their family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from samplers.schedule import NoiseSchedule

from ..model_info import ModelError
from ..scheduler_config import read_schedule
from ..tensors import TensorFile
from .ldm_vae import is_vae

INPAINTING = 9  # input channels of a UNet made for it
SCHEDULER = dict(
    _class_name="DDIMScheduler",
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    num_train_timesteps=1000,
)


@contextmanager
def missing_tensors_named(file: TensorFile) -> Iterator[None]:
    """Turn what looking up sizes raises into ModelError: KeyError and ValueError have the name of what is missing."""
    try:
        yield
    except IndexError:
        raise ModelError(
            f"{file.path.name} is not a supported checkpoint: a tensor has fewer dimensions than a network needs"
        ) from None
    except (KeyError, ValueError) as error:
        raise ModelError(f"{file.path.name} is not complete: {error.args[0]} is missing") from None


@dataclass(frozen=True, eq=False)
class LdmFile:
    """The part of `Checkpoint` that its families share.

    unet, vae  the arguments of the modules; `vae` is None if the file has none
    """

    file: TensorFile
    unet: Mapping[str, Any]
    vae: Mapping[str, Any] | None
    channels: ClassVar[int] = 4
    factor: ClassVar[int] = 8

    @property
    def inpaints(self) -> bool:
        """Whether its UNet is made for inpainting, see `weights.inpainting_network`."""
        return bool(self.unet["in_channels"] == INPAINTING)

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale is an input of its UNet, see `ConditionedNetwork.guided`."""
        return self.unet["time_cond_proj_dim"] is not None

    @property
    def has_vae(self) -> bool:
        """Whether the file has a VAE of its own."""
        return self.vae is not None

    @property
    def prediction(self) -> str | None:
        """What the file says: in its header, or by an empty tensor "v_pred"; None if nothing."""
        facts = {name: str(value).lower() for name, value in self.file.metadata.items()}
        stated, architecture = facts.get("modelspec.prediction_type", ""), facts.get("modelspec.architecture", "")
        if "v_pred" in self.file.shapes or "768-v" in architecture or stated in ("v", "v_prediction"):
            return "v_prediction"
        return "epsilon" if stated == "epsilon" else None

    @property
    def zero_snr(self) -> bool:
        """Whether a tensor "ztsnr" marks it as trained down to pure noise (Lin et al. 2023, arXiv:2305.08891)."""
        return "ztsnr" in self.file.shapes

    def schedule(self, zero_snr: bool) -> NoiseSchedule:
        """The same for all versions."""
        return read_schedule({**SCHEDULER, "rescale_betas_zero_snr": zero_snr})[0]

    def takes_vae(self, file: TensorFile) -> bool:
        """Whether a file has a VAE's decoder."""
        return is_vae(file)
