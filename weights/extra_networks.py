"""The LoRAs, textual inversions, upscalers and quick decoders in the folder of weights, by name, from headers alone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from .embedding_file import check_embedding, read_embedding
from .identity import Patch, file_digest
from .lora_file import LoraFile, check_lora, is_lora, read_lora
from .model_info import ModelError, describe_error
from .preview_decoder import PreviewDecoder, check_preview, open_preview, preview_for
from .prompt_syntax import LoraTag
from .tensors import read_shapes
from .upscaler import Upscaler, check_upscaler, open_upscaler
from .weight_files import CACHE

LORAS, EMBEDDINGS, UPSCALERS, PREVIEWS = "loras", "embeddings", "upscalers", "previews"  # folders in weights/
ENDINGS = (".safetensors", ".sft", ".pt", ".ckpt", ".bin", ".pth")
UNNAMED = "pytorch_lora_weights"  # how diffusers calls every LoRA
MAX_OPEN = 4  # LoRAs whose tensors are kept


@dataclass(frozen=True)
class FoundFile:
    """A file, what changes when it does, and why it cannot be used; "" if it can."""

    path: Path
    stamp: Hashable
    problem: str = ""


class ExtraNetworks:
    """What a request can name beside a model. Any thread may ask; what was read is remembered until its file changes.

    folder  of weights: LoRAs lie in its loras/ and below, and beside the models; textual inversions in its embeddings/
            and below, upscalers in its upscalers/ and below
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._checked: dict[Path, tuple[Hashable, FoundFile | None]] = {}
        self._digests: dict[tuple[Path, Hashable], str] = {}
        self._open: dict[tuple[Path, Hashable], LoraFile] = {}
        self._vectors: dict[tuple[Path, Hashable], torch.Tensor] = {}
        self._previews: dict[tuple[Path, Hashable, torch.device], PreviewDecoder] = {}
        self._known_upscalers: dict[tuple[Path, Hashable], str] = {}

    def loras(self) -> dict[str, FoundFile]:
        """The LoRAs by name, those included that cannot be used: the name of the file, or its place under loras/ too
        where another one has that name. One that is called as all are has the name of its repository."""
        found = self._loras_by_file()
        named: dict[str, FoundFile] = {}
        for name, file in sorted(found.items(), key=lambda item: item[1].path):
            own = _repository_of(file.path.relative_to(self.folder))
            named[own if own and own not in found and own not in named else name] = file
        return dict(sorted(named.items(), key=lambda item: item[0].casefold()))

    def _loras_by_file(self) -> dict[str, FoundFile]:
        """The LoRAs by the names of their files alone, as pictures name them that were made before repositories did."""
        inside = self.folder / LORAS
        return self._named(
            [(path, self._check(path, check_lora)) for path in _files(inside, ENDINGS, deep=True)]
            + [(path, self._check(path, check_lora, beside=True)) for path in _files(self.folder, ENDINGS[:2])],
            inside,
        )

    def embeddings(self) -> dict[str, FoundFile]:
        """The textual inversions by name, as `loras`."""
        inside = self.folder / EMBEDDINGS
        return self._named(
            [(path, self._check(path, check_embedding)) for path in _files(inside, ENDINGS, deep=True)], inside
        )

    def upscalers(self) -> dict[str, FoundFile]:
        """The upscalers by name, as `loras`; whether their architecture is known, `find_upscaler` tells."""
        inside = self.folder / UPSCALERS
        return self._named(
            [(path, self._check(path, read_shapes)) for path in _files(inside, ENDINGS, deep=True)], inside
        )

    def previews(self) -> dict[str, FoundFile]:
        """The quick decoders by name, as `loras`. Files that hold an encoder alone lie beside them and are left out."""
        inside = self.folder / PREVIEWS
        files = (path for path in _files(inside, ENDINGS, deep=True) if "encoder" not in path.stem.lower())
        return self._named([(path, self._check(path, check_preview)) for path in files], inside)

    def preview_name(self, scale: float) -> str | None:
        """The name of the quick decoder for a VAE whose latents are scaled so, None if there is none."""
        return preview_for(scale, self._usable_previews())

    def preview_decoder(self, scale: float, device: torch.device) -> PreviewDecoder | None:
        """The quick decoder for a VAE whose latents are scaled so, None if there is none. Raises ModelError."""
        usable = self._usable_previews()
        name = preview_for(scale, usable)
        if name is None:
            return None
        file = usable[name]
        key = file.path, file.stamp, device
        if key not in self._previews:
            self._previews[key] = open_preview(file.path, device)
        return self._previews[key]

    def decoder_patch(self, name: str) -> Patch:
        """The quick decoder of this name, as part of a model's identity. ModelError if it is not there."""
        file = self.previews().get(name)
        if file is None or file.problem:
            raise ModelError(file.problem if file else f"quick decoder {name!r} is not in weights/{PREVIEWS}/")
        return Patch(name, self._digest(file), kind="decoder")

    def problems(self) -> dict[str, str]:
        """Why each file that cannot be used cannot, by name."""
        files = {**self.loras(), **self.embeddings(), **self.upscalers(), **self.previews()}
        return {name: file.problem for name, file in files.items() if file.problem}

    def embeddings_in(self, text: str) -> list[str]:
        """The names of the textual inversions that a prompt has as words, in either case."""
        usable = (name for name, file in self.embeddings().items() if not file.problem)
        return [name for name in usable if re.search(rf"(?i)(?<!\w){re.escape(name)}(?!\w)", text)]

    def vectors(self, name: str) -> torch.Tensor:
        """The vectors (count, width) of the textual inversion of this name. Raises ModelError, KeyError."""
        file = self.embeddings()[name]
        key = file.path, file.stamp
        if key not in self._vectors:
            self._vectors[key] = read_embedding(file.path)
        return self._vectors[key]

    def find(self, name: str) -> FoundFile:
        """The LoRA of this name. ModelError if there is none, or if it cannot be used."""
        known = self._loras_by_file() | self.loras()
        if name not in known:
            usable = [each for each, file in self.loras().items() if not file.problem]
            names = ", ".join(usable[:20]) + (" ..." if len(usable) > 20 else "") if usable else "none"
            raise ModelError(f"LoRA {name!r} is not in weights/{LORAS}/; there is {names}")
        if known[name].problem:
            raise ModelError(known[name].problem)
        return known[name]

    def find_upscaler(self, name: str) -> FoundFile:
        """The upscaler of this name. ModelError if there is none, or if it cannot be used."""
        file = self.upscalers().get(name)
        if file is None:
            raise ModelError(f"upscaler {name!r} is not in weights/{UPSCALERS}/")
        key = file.path, file.stamp
        if key not in self._known_upscalers:
            self._known_upscalers[key] = file.problem or _problem(file.path, check_upscaler)
        if problem := self._known_upscalers[key]:
            raise ModelError(problem)
        return file

    def upscaler_patch(self, name: str) -> Patch:
        """The upscaler of this name, as part of a model's identity. Raises ModelError."""
        return Patch(name, self._digest(self.find_upscaler(name)), kind="upscaler")

    def open_upscaler(self, name: str, device: torch.device) -> Upscaler:
        """Open the upscaler of this name on a device. Raises ModelError."""
        file = self.find_upscaler(name)
        return open_upscaler(file.path, name, self._digest(file), device)

    def patch(self, tag: LoraTag) -> Patch:
        """The LoRA that a prompt names, as part of a model's identity. Raises ModelError."""
        file = self.find(tag.name)
        return Patch(tag.name, self._digest(file), tag.unet, tag.text)

    def embedding_patch(self, name: str) -> Patch:
        """The textual inversion of this name, as part of a model's identity. ModelError if it is not there."""
        if name not in (known := self.embeddings()):
            raise ModelError(f"embedding {name!r} is not in weights/{EMBEDDINGS}/")
        return Patch(name, self._digest(known[name]), kind="embedding")

    def read(self, name: str) -> LoraFile:
        """The LoRA of this name with its tensors. Raises ModelError."""
        file = self.find(name)
        key = file.path, file.stamp
        if key not in self._open:
            while len(self._open) >= MAX_OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[key] = read_lora(file.path, name)
        return self._open[key]

    def _usable_previews(self) -> dict[str, FoundFile]:
        return {name: file for name, file in self.previews().items() if not file.problem}

    def _digest(self, file: FoundFile) -> str:
        key = file.path, file.stamp
        if key not in self._digests:
            self._digests[key] = file_digest([file.path])
        return self._digests[key]

    def _named(self, files: Iterable[tuple[Path, FoundFile | None]], folder: Path) -> dict[str, FoundFile]:
        named: dict[str, FoundFile] = {}
        for path, file in files:
            if file is not None:
                relative = path.relative_to(folder if path.is_relative_to(folder) else self.folder)
                name = path.stem if path.stem not in named else relative.with_suffix("").as_posix()
                named.setdefault(name if name not in named else relative.as_posix(), file)
        return dict(sorted(named.items(), key=lambda item: item[0].casefold()))

    def _check(self, path: Path, check: Callable[[Path], object], beside: bool = False) -> FoundFile | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        stamp = stat.st_size, stat.st_mtime_ns
        known = self._checked.get(path)
        if known is None or known[0] != stamp:
            known = self._checked[path] = stamp, _checked(path, stamp, check, beside)
        return known[1]


def _repository_of(place: Path) -> str:
    """The name of the repository in Hugging Face's cache of a LoRA at a place; "" if the file has a name of its own."""
    if place.stem != UNNAMED:
        return ""
    return next((part.rpartition("--")[2] for part in place.parts if part.startswith(CACHE)), "")


def _problem(path: Path, check: Callable[[Path], object]) -> str:
    """Why a file cannot be used; "" if it can."""
    try:
        check(path)
    except ModelError as error:
        return str(error)
    except Exception as error:
        return f"{path.name} is damaged ({describe_error(error)})"
    return ""


def _checked(path: Path, stamp: Hashable, check: Callable[[Path], object], beside: bool) -> FoundFile | None:
    """What a file is; None for one beside the models that is no LoRA."""
    if not beside:
        return FoundFile(path, stamp, _problem(path, check))
    try:
        if not is_lora(read_shapes(path).shapes):
            return None
        check(path)
    except ModelError as error:
        return FoundFile(path, stamp, str(error)) if "LoRA" in str(error) else None
    except Exception:
        return None
    return FoundFile(path, stamp)


def _files(folder: Path, endings: tuple[str, ...], deep: bool = False) -> Iterable[Path]:
    """The files of tensors in a folder, in order; hidden ones (macOS leaves ._x beside x) are none."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deep else []
        yield from (
            Path(place, name)
            for name in sorted(names)
            if not name.startswith(".") and name.lower().endswith(endings) and Path(place, name).is_file()
        )
