"""The parts of a diffusers folder: whether each is whole, and opening it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .architecture import MAX_LAYERS
from .assembly import ModulePart, check_part
from .checkpoint_names import Source
from .folder import part_folder, read_index
from .model_info import ModelError, ModelInfo
from .shapes import Tensors
from .tensors import read

# Only these classes are ever built, whatever a folder names; code from a folder is never run.
PARTS = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
}
MODULES = ("unet", "vae", "text_encoder")
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
# What the VAE's attention was called before diffusers 0.15, which renames it as it reads.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def check_folder(found: ModelInfo) -> None:
    """Raises ModelError unless every part of a folder is there, of the right class and whole; no weights are read."""
    refuse_other_classes(found)
    for name in MODULES:
        folder = part_folder(found.path, name)
        with _naming(found, name):
            _check_module(folder, name)
    open_tokenizer(found)


def refuse_other_classes(found: ModelInfo) -> None:
    """Raises ModelError if the index of a folder names other classes than those that are built."""
    index = read_index(found.path)
    for name, (package, class_name) in PARTS.items():
        named = index.get(name)
        if named != [package, class_name]:
            wanted = f"{package}.{class_name}"
            raise ModelError(f"model {found.name}: its {name} is {named}, and only {wanted} is supported")


def open_module(found: ModelInfo, name: str, dtype: torch.dtype) -> torch.nn.Module:
    """A part with weights, on the CPU. ModelError if it cannot be opened or if not every weight is in its files."""
    _quiet()
    folder = part_folder(found.path, name)
    with _naming(found, name):
        # The libraries fill up what is missing with random numbers and go on.
        files, variant = _check_module(folder, name)
        module, report = _kind(name).from_pretrained(
            folder,
            torch_dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        if missing := sorted(report["missing_keys"]):
            raise ModelError(f"{files[0].name} is not complete: {missing[0]} is missing; download it again")
    return module


def other_files(found: ModelInfo) -> list[Path]:
    """What a folder's pictures depend on beside the UNet, its own or borrowed: vocabulary, text encoder and VAE.

    Raises ModelError.
    """
    tokenizer = part_folder(found.path, "tokenizer")
    words = [tokenizer / file for files in VOCABULARIES for file in files]
    weights = (_weight_files(part_folder(found.path, name), name)[0] for name in ("text_encoder", "vae"))
    return [file for file in words if file.is_file()] + [file for files in weights for file in files]


def open_tokenizer(found: ModelInfo) -> Any:
    """The tokenizer, for no more tokens than the text encoder takes. Raises ModelError."""
    _quiet()
    folder, encoder = (part_folder(found.path, name) for name in ("tokenizer", "text_encoder"))
    with _naming(found, "tokenizer"):
        # Without a vocabulary the library makes an empty one.
        if not any(all((folder / file).is_file() for file in files) for files in VOCABULARIES):
            raise ModelError("vocab.json or merges.txt is missing; copy the whole diffusers folder")
        tokenizer = _kind("tokenizer").from_pretrained(folder, local_files_only=True)
        # A tokenizer whose configuration does not say it allows any number.
        longest = int(min(tokenizer.model_max_length, _config(encoder, "text_encoder").max_position_embeddings))
        if longest < 3:
            raise ModelError(f"tokenizer_config.json: model_max_length is {longest}; it must be 3 or more")
        tokenizer.model_max_length = longest
    return tokenizer


def _check_module(folder: Path, name: str) -> tuple[list[Path], str | None]:
    """The files of a part's weights and their variant. ModelError if a tensor is missing or of another shape."""
    files, variant = _weight_files(folder, name)
    shapes = {_usual(key, name): shape for file in files for key, shape in read(file).shapes.items()}
    with torch.device("meta"):
        module = _build(_config(folder, name), name)
    sources = {wanted: Source(_usual(wanted, name)) for wanted in module.state_dict()}
    check_part(ModulePart(module, Tensors(files[0], shapes), sources))
    return files, variant


def _weight_files(folder: Path, name: str) -> tuple[list[Path], str | None]:
    """The files that a part is read from, one or in pieces, and their variant: some have half precision only."""
    stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
    for variant, ending in ((None, ""), ("fp16", r"\.fp16")):
        pattern = re.compile(rf"{stem}{ending}(-\d+-of-\d+)?\.safetensors|{stem}(-\d+-of-\d+)?{ending}\.safetensors")
        if files := sorted(file for file in folder.glob("*.safetensors") if pattern.fullmatch(file.name)):
            return files, variant
    raise ModelError(f"{stem}.safetensors is missing; copy the whole diffusers folder")


def _usual(key: str, name: str) -> str:
    """A tensor's name as today's classes have it."""
    if name == "text_encoder":
        return key.removeprefix("text_model.")
    return re.sub(r"(?<=\.)(query|key|value|proj_attn)(?=\.\w+$)", lambda old: OLD_ATTENTION[old[0]], key)


def _config(folder: Path, name: str) -> Any:
    """A part's configuration, as its class takes it. ModelError if it asks for more layers than any model has."""
    if not (folder / "config.json").is_file():
        raise ModelError("config.json is missing; copy the whole diffusers folder")
    if name == "text_encoder":
        from transformers import CLIPTextConfig

        config = CLIPTextConfig.from_pretrained(folder, local_files_only=True)
        facts = config.to_dict()
    else:
        config = facts = _kind(name).load_config(folder, local_files_only=True)
    for fact, number in facts.items():
        if "layers" in fact and any(layers > MAX_LAYERS for layers in _numbers(number)):
            raise ModelError(f"config.json: {fact} is {str(number)[:100]}; allowed are up to {MAX_LAYERS}")
    return config


def _numbers(value: Any) -> list[int]:
    """The whole numbers in a number or in nested lists of them."""
    if isinstance(value, list | tuple):
        return [number for inner in value for number in _numbers(inner)]
    return [value] if isinstance(value, int) else []


def _build(config: Any, name: str) -> torch.nn.Module:
    return _kind(name)(config) if name == "text_encoder" else _kind(name).from_config(config)


def _kind(name: str) -> type:
    import diffusers
    import transformers

    package, class_name = PARTS[name]
    return getattr({"diffusers": diffusers, "transformers": transformers}[package], class_name)


def _quiet() -> None:
    """The status line tells of loading; a bar for each part would only clutter the console."""
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()


@contextmanager
def _naming(found: ModelInfo, part: str) -> Iterator[None]:
    """Whatever goes wrong with a part is a ModelError with the model's and the part's name, and no folders above them."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"model {found.name}: {part}/{error}") from error
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0].replace(f"{found.path.parent}{os.sep}", "")
        raise ModelError(f"model {found.name} cannot be opened: {part}/: {said[:300]}") from error
