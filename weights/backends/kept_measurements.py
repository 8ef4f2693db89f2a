"""What was measured of models on this machine, in a file, so that it is measured once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..identity import ModelIdentity
from .measurement import Compute, Measured
from .openvino_backend import openvino_version

NAME = "backends.json"

log = logging.getLogger(__name__)


class KeptMeasurements:
    """The measurements in a folder; None keeps nothing. A file that cannot be read is as none."""

    def __init__(self, folder: Path | None):
        self._path = folder / NAME if folder else None

    def of(self, identity: ModelIdentity) -> dict[Compute, Measured] | None:
        """What was measured of a model, torch's first; None if nothing was, or something has changed since."""
        kept = self._read().get(_key(identity))
        try:
            return (
                {Compute(*name.split()): Measured(**each) for name, each in kept["measured"].items()} if kept else None
            )
        except (TypeError, KeyError, AttributeError):
            return None

    def add(self, name: str, identity: ModelIdentity, measured: Mapping[Compute, Measured]) -> None:
        """Keep what was measured of a model of this name."""
        if self._path is None:
            return
        named = {f"{compute.backend} {compute.dtype}": asdict(each) for compute, each in measured.items()}
        content = self._read() | {_key(identity): dict(model=name, measured=named)}
        temporary = self._path.with_name(f".{NAME}.{secrets.token_hex(4)}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content, indent=1), "utf-8")
            os.replace(temporary, self._path)
        except OSError as error:
            log.warning("what was measured could not be kept: %s", error)

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text("utf-8")) if self._path else {}
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def _key(identity: ModelIdentity) -> str:
    """What a measurement holds for: the weights, the processor, the threads, and what computes."""
    facts = (identity.digest, identity.hardware, torch.get_num_threads(), torch.__version__, openvino_version())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
