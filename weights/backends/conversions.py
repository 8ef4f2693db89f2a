"""Conversions for OpenVINO on disk: kept by the identity of the weights, bounded in size, made by a child process."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..identity import ModelIdentity
from ..model_info import ModelInfo
from .openvino_backend import DECODER, UNET, openvino_version

ROOT = Path(__file__).parents[2]
VERSION = 1  # of what is converted and how
LIMIT = 20 << 30  # bytes of all conversions; Stable Diffusion 1.5 takes 4 GB
FOLDER, UNFINISHED = "openvino", ".part"
ABANDONED = 3600  # seconds after which an unfinished conversion is nobody's


class Conversions:
    """The conversions in a folder.

    folder  None keeps them for the life of this object
    limit   bytes of all of them; those that were used longest ago go first
    """

    def __init__(self, folder: Path | None, limit: int = LIMIT):
        self._lent = tempfile.TemporaryDirectory(prefix="sigmalab-openvino-") if folder is None else None
        self._folder = (folder or Path(self._lent.name if self._lent else "")) / FOLDER
        self._limit = limit

    def path_of(self, identity: ModelIdentity) -> Path:
        """Where the conversion of a model is, or would be."""
        named = f"{VERSION} {openvino_version()} {identity.digest}"
        return self._folder / hashlib.sha256(named.encode()).hexdigest()[:24]

    def find(self, identity: ModelIdentity) -> Path | None:
        """The finished conversion of a model, None if there is none; it counts as used now."""
        path = self.path_of(identity)
        if not all((path / f"{part}.bin").is_file() for part in (UNET, DECODER)):
            return None
        os.utime(path)
        return path

    def begin(self, info: ModelInfo, identity: ModelIdentity, on_end: Callable[[], None], threads: int) -> Conversion:
        """Convert a model in a child process, of low priority; `on_end` is called in a thread once it has ended."""
        path = self.path_of(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._make_room(path)
        return Conversion(info, path, on_end, threads)

    def _make_room(self, wanted: Path) -> None:
        """Remove what was used longest ago until the limit holds, and what a killed process left behind."""
        kept = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        size = 0
        for path in kept:
            size += sum(file.stat().st_size for file in path.iterdir())
            abandoned = path.suffix == UNFINISHED and time.time() - path.stat().st_mtime > ABANDONED
            if path == wanted or abandoned or (size > self._limit and path.suffix != UNFINISHED):
                shutil.rmtree(path, ignore_errors=True)


class Conversion:
    """A conversion that runs in a child process. Any thread may ask.

    progress  how far it is, as "1 of 2"; "" before it has begun
    """

    def __init__(self, info: ModelInfo, path: Path, on_end: Callable[[], None], threads: int):
        self.progress, self._on_end = "", on_end
        self._errors = tempfile.TemporaryFile()
        paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "weights.backends.openvino_conversion"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        assert self._process.stdin is not None
        with self._process.stdin as pipe:
            pipe.write(pickle.dumps((info, str(path), threads)))
        self._reader = threading.Thread(target=self._read, name="sigmalab-conversion", daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self._reader.is_alive()

    @property
    def problem(self) -> str:
        """Why it failed, in a line; "" while it runs and where it did not."""
        if self.running or not self._process.returncode:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"the process ended with {self._process.returncode}"

    def wait(self, timeout: float | None = None) -> None:
        """Until it has ended."""
        self._reader.join(timeout)

    def close(self) -> None:
        """End it now."""
        self._process.terminate()
        self._reader.join(10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.progress = line.decode(errors="replace").strip()
        self._process.wait()
        self._on_end()
