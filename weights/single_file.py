"""What a single checkpoint file is: its family, what lies beside it, and what the user says about it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

from .companion_files import NOT_READ, OVERRIDES, VAES, Override, read_override, vae_beside
from .families import FAMILIES, Checkpoint, Family, describe_unsupported, recognize_file
from .model_info import DISTILLED_GUIDANCE, TAKES_GUIDANCE, Defaults, ModelError, ModelInfo
from .tensors import read_shapes

LARGEST = 2048  # pixels of a side


def read_single(path: Path, name: str = "", families: Sequence[Family] = FAMILIES, stamp: Hashable = None) -> ModelInfo:
    """What a .safetensors or .ckpt file is, from its names and shapes. ModelError names the file and what is wrong.

    stamp  see `ModelInfo`
    """
    override = read_override(path)
    _, checkpoint = recognize_file(read_shapes(path), families)
    vae = _vae(path, override, checkpoint)
    if not checkpoint.has_vae and vae is None:
        raise ModelError(f"{path.name} has no VAE; put one beside it as {path.stem}{VAES[0]}")
    stated = override.prediction or checkpoint.prediction
    prediction = stated or "v_prediction"
    zero_snr = checkpoint.zero_snr if override.zero_snr is None else override.zero_snr
    size = override.size or checkpoint.size(prediction)
    notes = [
        f"{path.stem}{ending} is not read; what is wrong about the model can be said in {path.stem}{OVERRIDES}."
        for ending in NOT_READ
        if path.with_name(path.stem + ending).exists()
    ]
    if vae:
        notes.append(f"Its VAE is {vae.name}.")
    guidance, schedule = 7.5, "Uniform trailing"
    if checkpoint.takes_guidance:
        guidance, schedule = DISTILLED_GUIDANCE, "LCM"
        notes.append(TAKES_GUIDANCE)
    if stated is None:
        notes.append(
            "Whether it predicts epsilon or v is asked of the network when it is opened; "
            f"{path.stem}{OVERRIDES} can say it."
        )
    return ModelInfo(
        name=name or path.stem,
        path=path,
        schedule=checkpoint.schedule(zero_snr),
        prediction=prediction,
        channels=checkpoint.channels,
        factor=checkpoint.factor,
        defaults=Defaults(size, checkpoint.factor, max(LARGEST, size), guidance, schedule, 1),
        stamp=stamp,
        notes=tuple(notes),
        is_certain=stated is not None,
        vae=vae,
        inpaints=checkpoint.inpaints,
        takes_guidance=checkpoint.takes_guidance,
    )


def _vae(path: Path, override: Override, checkpoint: Checkpoint) -> Path | None:
    """The file of the VAE that replaces the checkpoint's own, if any. ModelError if it holds none."""
    vae = vae_beside(path, override)
    if vae is None or checkpoint.takes_vae(file := read_shapes(vae)):
        return vae
    raise ModelError(f"{vae.name} should be a VAE and looks like {describe_unsupported(file.shapes, file.metadata)}")
