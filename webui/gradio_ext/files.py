"""Files on their way between Gradio and the rest: uploads in, copies of finished pictures out."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from gradio.data_classes import FileData
from gradio.processing_utils import save_bytes_to_cache, save_file_to_cache
from gradio.utils import get_upload_folder, is_in_or_equal
from pydantic import ValidationError

from webui.core.file_batch import write_results
from webui.core.request import RequestError

ADDRESSES = ("http://", "https://")  # what Gradio takes for an address


def uploaded(image: Any) -> Path:
    """The path of a file that came through Gradio's upload; any other path on this machine is a RequestError."""
    path = image.get("path") if isinstance(image, dict) else None
    if not is_upload(path):
        raise RequestError("Image must be an uploaded file; with gradio_client it is handle_file('picture.png').")
    return Path(path)


def is_upload(path: Any) -> TypeGuard[str]:
    """Whether this is the path of a file that came through Gradio's upload, or that Gradio serves; it may be gone."""
    return isinstance(path, str) and "\0" not in path and is_in_or_equal(path, get_upload_folder())


def file_problem(value: Mapping[str, Any]) -> str:
    """What is wrong with an object that Gradio takes for a file, and would fail on; "" for nothing.

    Gradio takes its `path` for one of this machine, and downloads it if it is an address.
    """
    path, meta = value.get("path"), value.get("meta", {})
    if isinstance(path, str) and path.startswith(ADDRESSES):
        return "A file is given by its address; upload it, with gradio_client as handle_file('picture.png')."
    if "path" in value and not isinstance(meta, dict):
        return "The 'meta' of a file must be an object."
    # This is how Gradio tells a file from other objects.
    if not isinstance(path, str) or meta.get("_type") != "gradio.FileData":
        return ""
    if not is_upload(path):
        return "A file of the request was not uploaded; with gradio_client it is handle_file('picture.png')."
    try:
        FileData(**value)
    except ValidationError as error:
        return f"A file of the request has a wrong {' '.join(map(str, error.errors()[0]['loc'])) or 'form'!r}."
    return "" if os.path.isfile(path) else "A file of the request is no longer on the server; upload it again."


def served(path: Path | str) -> str:
    """A copy of a picture, byte for byte, where Gradio serves files from: outputs/ itself is never served."""
    return save_file_to_cache(path, get_upload_folder())


def served_bytes(data: bytes, name: str) -> str:
    """A new file of these bytes where Gradio serves files from, under this name."""
    return save_bytes_to_cache(data, name, get_upload_folder())


def served_zip(pictures: Sequence[tuple[str, Path]], name: str) -> str:
    """A new zip of pictures, each (name in it without ending, file), where Gradio serves files from."""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    write_results(folder / name, pictures)
    return str(folder / name)
