"""The LoRAs that lie in the folder of weights, by name, from headers alone."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .identity import Patch, file_digest
from .lora_file import LoraFile, check_lora, is_lora, read_lora
from .model_info import ModelError, describe_error
from .prompt_syntax import LoraTag
from .tensors import read_shapes

LORAS = "loras"  # folder in weights/
ENDINGS = (".safetensors", ".sft", ".pt", ".ckpt", ".bin", ".pth")
MAX_OPEN = 4  # LoRAs whose tensors are kept


@dataclass(frozen=True)
class FoundFile:
    """A file, what changes when it does, and why it cannot be used; "" if it can."""

    path: Path
    stamp: Hashable
    problem: str = ""


class ExtraNetworks:
    """What prompts can name beside words. Any thread may ask; what was read is remembered until its file changes.

    folder  of weights: LoRAs lie in its loras/ and below, and beside the models
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._checked: dict[Path, tuple[Hashable, FoundFile | None]] = {}
        self._digests: dict[tuple[Path, Hashable], str] = {}
        self._open: dict[tuple[Path, Hashable], LoraFile] = {}

    def loras(self) -> dict[str, FoundFile]:
        """The LoRAs by name, those included that cannot be used: the name of the file, or its place under loras/ too
        where another one has that name."""
        inside = self._folder / LORAS
        found: dict[str, FoundFile] = {}
        for path in [*_files(inside, ENDINGS, deep=True), *_files(self._folder, ENDINGS[:2], deep=False)]:
            beside = path.parent == self._folder
            if (file := self._check(path, beside)) is not None:
                relative = path.relative_to(self._folder if beside else inside)
                name = path.stem if path.stem not in found else relative.with_suffix("").as_posix()
                found.setdefault(name if name not in found else relative.as_posix(), file)
        return dict(sorted(found.items(), key=lambda item: item[0].casefold()))

    def problems(self) -> dict[str, str]:
        """Why each LoRA that cannot be used cannot, by name."""
        return {name: file.problem for name, file in self.loras().items() if file.problem}

    def find(self, name: str) -> FoundFile:
        """The LoRA of this name. ModelError if there is none, or if it cannot be used."""
        known = self.loras()
        if name not in known:
            usable = [each for each, file in known.items() if not file.problem]
            names = ", ".join(usable[:20]) + (" ..." if len(usable) > 20 else "") if usable else "none"
            raise ModelError(f"LoRA {name!r} is not in weights/{LORAS}/; there is {names}")
        if known[name].problem:
            raise ModelError(known[name].problem)
        return known[name]

    def patch(self, tag: LoraTag) -> Patch:
        """The LoRA that a prompt names, as part of a model's identity. Raises ModelError."""
        file = self.find(tag.name)
        key = file.path, file.stamp
        if key not in self._digests:
            self._digests[key] = file_digest([file.path])
        return Patch(tag.name, self._digests[key], tag.unet, tag.text)

    def read(self, name: str) -> LoraFile:
        """The LoRA of this name with its tensors. Raises ModelError."""
        file = self.find(name)
        key = file.path, file.stamp
        if key not in self._open:
            while len(self._open) >= MAX_OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[key] = read_lora(file.path, name)
        return self._open[key]

    def _check(self, path: Path, beside: bool) -> FoundFile | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        stamp = stat.st_size, stat.st_mtime_ns
        known = self._checked.get(path)
        if known is None or known[0] != stamp:
            known = self._checked[path] = stamp, _checked(path, stamp, beside)
        return known[1]


def _checked(path: Path, stamp: Hashable, beside: bool) -> FoundFile | None:
    """What a file is; None for one beside the models that is no LoRA."""
    try:
        if beside and not is_lora(read_shapes(path).shapes):
            return None
        check_lora(path)
    except ModelError as error:
        return None if beside and "LoRA" not in str(error) else FoundFile(path, stamp, str(error))
    except Exception as error:
        return None if beside else FoundFile(path, stamp, f"{path.name} is damaged ({describe_error(error)})")
    return FoundFile(path, stamp)


def _files(folder: Path, endings: tuple[str, ...], deep: bool) -> Iterable[Path]:
    """The files of tensors in a folder, in order; hidden ones (macOS leaves ._x beside x) are none."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deep else []
        yield from (
            Path(place, name)
            for name in sorted(names)
            if not name.startswith(".") and name.lower().endswith(endings) and Path(place, name).is_file()
        )
