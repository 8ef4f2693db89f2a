"""Shared fixtures: the built-in plugins, and a toy model that needs no network and no file."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from samplers.registry import Registry, discover
from samplers.schedule import stable_diffusion
from samplers.testing import GaussianDenoiser
from webui.core.record import encode_png, read_record
from webui.core.storage import write_new
from webui.engine.engine import Engine
from webui.settings import Settings
from weights.identity import ModelIdentity, hardware_of
from weights.model_info import Defaults, ModelInfo

ROOT = Path(__file__).parent.parent
# Two test processes share the cores; threads of their own would only stand in each other's way.
torch.set_num_threads(1)
# No test asks another machine. httpx would read all certificates for each client, which costs more than most calls.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = str(ROOT / "tests")


def pytest_collection_finish() -> None:
    """Leave what the imports made out of garbage collections: each would go through 600,000 objects for 0.7 s."""
    gc.freeze()


@dataclass
class ToyModel:
    """`weights.model.Model` on the closed-form denoiser of a Gaussian: latents are an eighth of the picture.

    on_call  called before every network call, to make it slow, fail or count
    """

    info: ModelInfo
    on_call: Callable[[float], None] = lambda sigma: None
    calls: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self):
        self.name, self.schedule, self.device = self.info.name, self.info.schedule, torch.device("cpu")
        self.offload = "none"
        hardware = hardware_of(self.device)
        self.identity = ModelIdentity("0123456789", self.info.prediction, "float32", "cpu", hardware)

    def denoiser(self, prompt, negative_prompt="", guidance=1.0, **conditioning):
        exact = GaussianDenoiser(len(prompt) / 100, 0.5)

        def denoise(x, sigma):
            self.on_call(sigma)
            self.calls.append((len(x), sigma))
            return exact(x, sigma)

        return denoise

    def denoiser_of_each(self, prompts, guidance=1.0):
        each = [self.denoiser(prompt) for prompt in prompts]

        class Denoise:
            model = self.schedule

            def __call__(self, x, sigma):
                return torch.cat([each[i % len(each)](x[i : i + 1], sigma) for i in range(len(x))])

        return Denoise()

    def identity_for(self, prompt, negative_prompt="", feature_reuse=1):
        return self.identity

    lacks_weights = False

    def able_to_draw(self, prompt, feature_reuse=1):
        return self

    @property
    def by_torch(self):
        return self

    def latents_shape(self, width, height):
        return 3, height // 8, width // 8

    def encode(self, image):
        small = image.resize((image.width // 8, image.height // 8))
        return torch.tensor(list(small.get_flattened_data())).T.reshape(1, 3, small.height, small.width) / 127.5 - 1

    def decode(self, latents):
        pixels = ((latents / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1)
        side = latents.shape[-1], latents.shape[-2]
        return [Image.frombytes("RGB", side, p.numpy().tobytes()).resize((side[0] * 8, side[1] * 8), 0) for p in pixels]

    preview = decode

    def is_cheap_to_decode(self, width, height):
        return True

    def count_tokens(self, text):
        return len(text.split()), 75


def toy(name: str = "toy", max_batch: int = 4) -> ModelInfo:
    """A model of Stable Diffusion's noise schedule, 64 pixels a side by default."""
    defaults = Defaults(
        size=64, multiple=8, largest=2048, guidance=5.0, schedule="Uniform leading", max_batch=max_batch
    )
    return ModelInfo(name, Path("nowhere") / name, stable_diffusion(), "epsilon", 3, 8, defaults)


def write_png(image: Image.Image, path: Path, record: Mapping[str, Any]) -> None:
    """A picture with a record, as the engine saves it."""
    write_new(path, encode_png(image, read_record(record)))


@pytest.fixture(scope="session")
def registry() -> Registry:
    return discover(ROOT / "plugins", packages=False)


@pytest.fixture(scope="session")
def emoji():
    """The embedded model, opened once."""
    from weights.diffusers_folder import read_folder
    from weights.opening import open_model

    return open_model(read_folder(ROOT / "weights" / "emoji"), "cpu")


@pytest.fixture
def gate():
    """A network that waits: see `Gate`."""
    gate = Gate()
    yield gate
    gate.open()


class Gate:
    """Holds every network call until it is let through, so that tests decide what happens when."""

    def __init__(self):
        self._calls, self._passes = threading.Semaphore(0), threading.Semaphore(0)
        self._open = False

    def __call__(self, sigma: float) -> None:
        self._calls.release()
        if not self._open:
            assert self._passes.acquire(timeout=60)

    def arrived(self, calls: int = 1) -> None:
        """Wait until so many more calls are at the gate or through it."""
        for _ in range(calls):
            assert self._calls.acquire(timeout=60), "no network call came"

    def let(self, calls: int = 1) -> None:
        """Let so many calls through."""
        self._passes.release(calls)

    def open(self) -> None:
        """Let everything through from now on."""
        self._open = True
        self._passes.release(1000)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def real(registry, emoji, tmp_path_factory):
    """An engine on the embedded model."""
    folder = tmp_path_factory.mktemp("engine")
    settings = Settings(root=ROOT, outputs=folder / "outputs", weights=ROOT / "weights", device="cpu", model="emoji")
    engine = Engine(registry, settings, lambda found, device: emoji)
    engine.start()
    yield engine
    engine.close()
