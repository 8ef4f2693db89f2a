"""The parts of a diffusers folder: check that each is complete, and build it empty."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .diffusers_folder import NONE, part_folder, read_index
from .families import FAMILIES, Family, recognize_folder
from .families.clip_text import MAX_LAYERS
from .model_info import ModelError, ModelInfo
from .module_part import ModulePart, Source, check_part
from .tensors import TensorFile, read_shapes

VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
# Names of the VAE's attention before diffusers 0.15, which renames them as it reads.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Folder:
    """A diffusers folder and the family that its index names. ModelError if it names classes of no family."""

    def __init__(self, info: ModelInfo, families: Sequence[Family] = FAMILIES):
        self._info, index = info, read_index(info.path)
        self.family = recognize_folder([name for name, kind in index.items() if kind != NONE], families)
        for name, (package, class_name) in self.family.components.items():
            if index.get(name) != [package, class_name]:
                expected = f"{package}.{class_name}"
                raise ModelError(
                    f"model {info.name}: its {name} is {index.get(name)}, and only {expected} is supported"
                )
        self.tokenizers = [name for name in self.family.components if name.startswith("tokenizer")]
        self.modules = [name for name in self.family.components if name not in self.tokenizers]

    def check(self) -> None:
        """Raises ModelError unless every part is there and complete; no weights are read."""
        self.parts()
        for name in self.tokenizers:
            self.open_tokenizer(name)

    def parts(self) -> dict[str, ModulePart]:
        """Every part with weights, still empty, by component. ModelError if a file lacks a weight."""
        found = {}
        for name in self.modules:
            with self._naming(name):
                found[name] = self._part(name)
        return found

    def open_tokenizer(self, name: str) -> Any:
        """A tokenizer, for no more tokens than its text encoder takes. Raises ModelError."""
        with self._naming(name):
            folder = self._path(name)
            # Without a vocabulary the library makes an empty one.
            if not any(all((folder / file).is_file() for file in files) for files in VOCABULARIES):
                raise ModelError("vocab.json or merges.txt is missing; copy the whole diffusers folder")
            tokenizer = self._class(name).from_pretrained(folder, local_files_only=True)
            encoder = self._config(name.replace("tokenizer", "text_encoder"))
            # A tokenizer whose configuration does not say it allows any number.
            longest = int(min(tokenizer.model_max_length, encoder.max_position_embeddings))
            if longest < 3:
                raise ModelError(f"tokenizer_config.json: model_max_length is {longest}; it must be 3 or more")
            tokenizer.model_max_length = longest
        return tokenizer

    def unet_files(self) -> list[Path]:
        """The files that the digest of the weights covers: those that are loaded. Raises ModelError."""
        return self._weight_files("unet")

    def other_files(self) -> list[Path]:
        """The files of the other parts, own or borrowed: vocabularies, text encoders and VAE. Raises ModelError."""
        folders = [self._path(name) for name in self.tokenizers]
        vocabularies = [folder / file for folder in folders for files in VOCABULARIES for file in files]
        weights = [self._weight_files(name) for name in sorted(self.modules) if name != "unet"]
        return [file for file in vocabularies if file.is_file()] + [file for files in weights for file in files]

    def _part(self, name: str) -> ModulePart:
        """A part, still empty. ModelError if a tensor is missing or of another shape."""
        files = self._weight_files(name)
        found = {key: (shape, file) for file in files for key, shape in read_shapes(file).shapes.items()}
        stored = {self._usual(key, name): key for key in found}
        config, kind = self._config(name), self._class(name)
        with torch.device("meta"):
            module = kind(config) if self._is_text_encoder(name) else kind.from_config(config)
        usual = {key: self._usual(key, name) for key in module.state_dict()}
        sources = {key: Source(stored.get(own, own)) for key, own in usual.items()}
        file = TensorFile(files[0], {key: shape for key, (shape, _) in found.items()})
        part = ModulePart(module, file, sources, {key: path for key, (_, path) in found.items()})
        check_part(part)
        return part

    def _weight_files(self, name: str) -> list[Path]:
        """The files that a part is read from, one or in pieces; some folders have half precision only."""
        stem, folder = "model" if self._is_text_encoder(name) else "diffusion_pytorch_model", self._path(name)
        for ending in ("", r"\.fp16"):
            pattern = re.compile(
                rf"{stem}{ending}(-\d+-of-\d+)?\.safetensors|{stem}(-\d+-of-\d+)?{ending}\.safetensors"
            )
            if files := sorted(file for file in folder.glob("*.safetensors") if pattern.fullmatch(file.name)):
                return files
        raise ModelError(f"{stem}.safetensors is missing; copy the whole diffusers folder")

    def _config(self, name: str) -> Any:
        """A part's configuration, as its class takes it. ModelError if it asks for more layers than any model has."""
        folder, kind = self._path(name), self._class(name)
        if not (folder / "config.json").is_file():
            raise ModelError("config.json is missing; copy the whole diffusers folder")
        if self._is_text_encoder(name):
            config = kind.config_class.from_pretrained(folder, local_files_only=True)
            values = config.to_dict()
        else:
            config = values = kind.load_config(folder, local_files_only=True)
        for key, value in values.items():
            if "layers" in key and any(layers > MAX_LAYERS for layers in _numbers(value)):
                raise ModelError(f"config.json: {key} is {str(value)[:100]}; allowed are up to {MAX_LAYERS}")
        return config

    def _usual(self, key: str, name: str) -> str:
        """A tensor's name as today's classes have it."""
        if self._is_text_encoder(name):
            return key.removeprefix("text_model.")
        return re.sub(r"(?<=\.)(query|key|value|proj_attn)(?=\.\w+$)", lambda old: OLD_ATTENTION[old[0]], key)

    def _path(self, name: str) -> Path:
        return part_folder(self._info.path, name)

    def _is_text_encoder(self, name: str) -> bool:
        return self.family.components[name][0] == "transformers"

    def _class(self, name: str) -> Any:
        import diffusers
        import transformers

        package, class_name = self.family.components[name]
        return getattr({"diffusers": diffusers, "transformers": transformers}[package], class_name)

    @contextmanager
    def _naming(self, part: str) -> Iterator[None]:
        """Turn what goes wrong with a part into a ModelError with the model's and the part's name, without paths."""
        try:
            yield
        except ModelError as error:
            raise ModelError(f"model {self._info.name}: {part}/{error}") from error
        except Exception as error:
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            reason = text.replace(f"{self._info.path.parent}{os.sep}", "")[:300]
            raise ModelError(f"model {self._info.name} cannot be opened: {part}/: {reason}") from error


def _numbers(value: Any) -> list[int]:
    """The whole numbers in a number or in nested lists of them."""
    if isinstance(value, list | tuple):
        return [number for each in value for number in _numbers(each)]
    return [value] if isinstance(value, int) else []
