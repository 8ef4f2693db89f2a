"""Step ``export``: the trained weights as a diffusers folder that StableDiffusionPipeline opens."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from . import autoencoder, loop
from .config import Config
from .model import Model


def scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.x."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )


def flow_scheduler() -> DPMSolverMultistepScheduler:
    """Scheduler configuration for flow matching: the diffusers solver that StableDiffusionPipeline accepts."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=1.0,
        steps_offset=1,  # changes nothing on flow times; StableDiffusionPipeline wants it
    )


def tokenizer(config: Config) -> CLIPTokenizer:
    """The tokenizer that the data step has trained."""
    return CLIPTokenizer.from_pretrained(config.folder / "tokenizer")


def pipeline(
    vae: AutoencoderKL,
    text: CLIPTextModel,
    unet: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
    scheduler: SchedulerMixin,
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write the folder in half precision, then put its files in place one rename each.

    A reader that opens the folder meanwhile sees whole files, and the folder never disappears.
    """
    temporary = folder / ".export"  # inside, so that nobody takes the unfinished folder for another model
    shutil.rmtree(temporary, ignore_errors=True)
    for module in (pipe.vae, pipe.text_encoder, pipe.unet):
        module.half()
    pipe.save_pretrained(temporary)
    # transformers opens a text encoder in the type its configuration names, diffusers the rest in float32:
    # named alike, or from_pretrained without arguments mixes the two and fails.
    config = temporary / "text_encoder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    # The original format's two files, for readers other than transformers.
    vocabulary = json.loads(pipe.tokenizer.backend_tokenizer.to_str())["model"]
    merges = "".join(f"{a} {b}\n" for a, b in vocabulary["merges"])
    (temporary / "tokenizer/vocab.json").write_text(json.dumps(vocabulary["vocab"], ensure_ascii=False))
    (temporary / "tokenizer/merges.txt").write_text("#version: 0.2\n" + merges)
    put_in_place(temporary, folder)


def write_twin(unet: UNet2DConditionModel, folder: Path, lender: Path) -> None:
    """Write a folder with its own UNet and scheduler; all other parts are borrowed from the folder beside it.

    ``_borrows`` is a word of ours; diffusers passes over it and is given the UNet and the scheduler by hand.
    """
    temporary = folder / ".export"
    shutil.rmtree(temporary, ignore_errors=True)
    unet.half().save_pretrained(temporary / "unet")
    flow_scheduler().save_pretrained(temporary / "scheduler")
    index = json.loads((lender / "model_index.json").read_text())
    index |= {"_borrows": lender.name, "scheduler": ["diffusers", "DPMSolverMultistepScheduler"]}
    (temporary / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    put_in_place(temporary, folder)


def put_in_place(temporary: Path, folder: Path) -> None:
    """Move whole files, model_index.json last, so that everything it names exists already."""
    files = sorted((p for p in temporary.rglob("*") if p.is_file()), key=lambda p: p.name == "model_index.json")
    for path in files:
        target = folder / path.relative_to(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o644)
        os.replace(path, target)
    shutil.rmtree(temporary)
    describe(folder)


def describe(folder: Path) -> None:
    """Print what the model card states: every weight file's size and hash, and the whole folder's size."""
    for path in sorted(folder.rglob("*.safetensors")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.relative_to(folder)}  {path.stat().st_size / 1e6:.1f} MB  sha256 {digest}")
    print(f"{folder}: {sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) / 1e6:.1f} MB")


def run(config: Config, folder: Path) -> None:
    """Export what has been trained so far; without a denoiser yet, it is written as initialised."""
    words = tokenizer(config)
    vae, model = autoencoder.restore(config), Model(config, words)
    if trained := loop.restore(config.folder / "denoiser.pt"):
        model.load_state_dict(trained["ema"])
    write(pipeline(vae, model.text, model.unet, words, scheduler()), folder)
    if trained := loop.restore(config.folder / "flow.pt"):
        model.load_state_dict(trained["ema"])
        write_twin(model.unet, twin(folder), folder)


def twin(folder: Path) -> Path:
    """Where the flow network lies: weights/emoji-flow beside weights/emoji."""
    return folder.with_name(f"{folder.name}-flow")


def few_calls(folder: Path) -> Path:
    """Where the LoRA for few calls lies: weights/loras/emoji-lcm.safetensors."""
    return folder.parent / "loras" / f"{folder.name}-lcm.safetensors"
