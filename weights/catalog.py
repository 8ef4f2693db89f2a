"""List the models in weights/ from small JSON files and headers alone, so that menus need no network loaded."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from pathlib import Path

from .companion_files import is_companion, stamp_of
from .diffusers_folder import read_folder
from .families import FAMILIES, Family
from .model_info import ModelError, ModelInfo, describe_error
from .single_file import read_single
from .weight_files import find_files

log = logging.getLogger(__name__)


class Catalog:
    """Remembers what it has read, so that asking again costs a look at the dates of files and no more."""

    def __init__(self, families: Sequence[Family] = FAMILIES):
        self._families = families
        self._known: dict[Path, tuple[Hashable, ModelInfo | ModelError]] = {}

    def find_models(self, folder: Path) -> dict[str, ModelInfo]:
        """The models in a folder by name. Unreadable ones are left out."""
        return {name: info for name, info in self._read(folder).items() if isinstance(info, ModelInfo)}

    def problems(self, folder: Path) -> dict[str, str]:
        """Why each model that cannot be used cannot, by name."""
        return {name: str(error) for name, error in self._read(folder).items() if isinstance(error, ModelError)}

    def _read(self, folder: Path) -> dict[str, ModelInfo | ModelError]:
        """What every folder in diffusers' format and every single file is, in subfolders too.

        A file is called after its stem, or in full where a folder or a .safetensors file has that name, or with its
        folders where another one has that, too.
        """
        found = [one for one in find_files(folder) if one.path.is_dir() or not is_companion(one.path)]
        read: dict[str, ModelInfo | ModelError] = {}
        for one in found:
            names = (one.name, one.path.name, one.path.relative_to(folder).as_posix())
            name = next((name for name in names if name not in read), names[-1])
            read[name] = self._one(one.path, name)
        return read

    def _one(self, path: Path, name: str) -> ModelInfo | ModelError:
        stamp = stamp_of(path, self._families)
        # Another thread may read the same one at the same time, to the same end.
        known = self._known.get(path)
        if known is None or known[0] != (name, stamp):
            known = self._known[path] = ((name, stamp), self._try_to_read(path, name, stamp))
        return known[1]

    def _try_to_read(self, path: Path, name: str, stamp: Hashable) -> ModelInfo | ModelError:
        try:
            return read_folder(path, stamp, name) if path.is_dir() else read_single(path, name, self._families, stamp)
        except ModelError as error:
            return error
        except OSError as error:
            return ModelError(f"{path.name} cannot be read: {error.strerror or error}")
        except Exception as error:
            # Whatever lies here must not take the other models, and with them the page, down.
            log.warning("%s could not be read", path.name, exc_info=error)
            return ModelError(
                f"{path.name} is damaged or no model ({describe_error(error)}); copy or download it again"
            )
