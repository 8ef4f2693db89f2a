"""Files on their way between Gradio and the rest: uploads in, copies of finished pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradio.processing_utils import save_bytes_to_cache, save_file_to_cache
from gradio.utils import get_upload_folder, is_in_or_equal

from webui.core.request import RequestError


def uploaded(image: Any) -> Path:
    """The path of a file that came through Gradio's upload; any other path on this machine is a RequestError."""
    path = image.get("path") if isinstance(image, dict) else None
    if not isinstance(path, str) or "\0" in path or not is_in_or_equal(path, get_upload_folder()):
        raise RequestError("Image must be an uploaded file; with gradio_client it is handle_file('picture.png').")
    return Path(path)


def served(path: Path | str) -> str:
    """A copy of a picture, byte for byte, where Gradio serves files from: outputs/ itself is never served."""
    return save_file_to_cache(path, get_upload_folder())


def served_bytes(data: bytes, name: str) -> str:
    """A new file of these bytes where Gradio serves files from, under this name."""
    return save_bytes_to_cache(data, name, get_upload_folder())
