"""Every number of the training, in frozen dataclasses: one preset for a CPU, one for a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Autoencoder:
    """Shape and training of the autoencoder; the latent side is the picture side / ``factor``."""

    widths: tuple[int, ...] = (24, 48, 64)
    latent_channels: int = 4
    kl: float = 1e-6
    colour: float = 2.0
    batch: int = 8
    # The network is purely convolutional, so small crops teach it most of what it has to know, and the more
    # of them in a step; whole pictures follow, because its normalization sees whole pictures in use.
    crop: int = 32
    crops: int = 16  # a batch
    cropped: float = 0.8  # of the budget
    learning_rate: float = 3e-3
    minutes: float = 25.0
    decoder_minutes: float = 15.0
    latent_noise: float = 0.08  # of the latents' deviation, while the decoder trains alone

    @property
    def factor(self) -> int:
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class Text:
    """A CLIP text encoder in miniature, trained along with the denoiser."""

    vocabulary: int = 4096
    # Captions take at most about 20 tokens; CLIP's 77 would spend more on padding than on the picture.
    length: int = 32
    width: int = 192
    layers: int = 2
    heads: int = 4
    batch: int = 256
    learning_rate: float = 1e-3
    minutes: float = 5.0


@dataclass(frozen=True)
class Scenes:
    """What the scenes of the training show, in shares of all."""

    white: float = 0.65  # on a white ground
    two: float = 0.12  # two things, beside or above each other
    several: float = 0.08  # two or three of one thing
    said: float = 0.4  # of one thing alone: changed so strongly that the caption says it


@dataclass(frozen=True)
class Denoiser:
    """Shape and training of the UNet."""

    widths: tuple[int, ...] = (64, 128, 192)
    # Words everywhere through the time embedding; through attention only at the levels marked here.
    attends: tuple[bool, ...] = (False, True, True)
    head_width: int = 32
    shown: int = 2  # noise levels at which each scene is shown
    batch: int = 64
    learning_rate: float = 1e-3
    shared_pace: float = 0.1  # learning rate of the layers between words and UNet, relative to the others'
    warmup: float = 0.02  # of the budget
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    drop_prompt: float = 0.1
    snr_range: tuple[float, float] = (0.2, 5.0)
    ema_decay: float = 0.999
    minutes: float = 120.0  # what the published weights took, in 15,000 batches, of two cores with nothing else to do
    flow_minutes: float = 45.0
    distil_minutes: float = 30.0


@dataclass(frozen=True)
class Classifier:
    """The judge: two small convolutional networks, of names and of styles, trained on real pictures only."""

    widths: tuple[int, ...] = (24, 48, 96, 192)
    side: int = 64  # pixels that it sees, of pictures of any size
    batch: int = 64
    learning_rate: float = 2e-3
    minutes: float = 20.0
    style_minutes: float = 15.0


@dataclass(frozen=True)
class Config:
    """All of the above for one picture size, and where the work is kept."""

    size: int = 64
    seed: int = 0
    work: Path = Path("training/work")
    packages: Path | None = None  # a folder of already downloaded npm tarballs
    start: Path | None = None  # a published model to go on from, in place of random weights
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    scenes: Scenes = field(default_factory=Scenes)
    text: Text = field(default_factory=Text)
    denoiser: Denoiser = field(default_factory=Denoiser)
    classifier: Classifier = field(default_factory=Classifier)

    @property
    def latent_size(self) -> int:
        return self.size // self.autoencoder.factor

    @property
    def folder(self) -> Path:
        return self.work / str(self.size)


PRESETS = {
    64: Config(),  # hours on a CPU
    # As many latents, twice the channels, drawn four times as large: minutes on a data-centre GPU. Goes on from a model
    # of 64 pixels (step `enlarge`), or makes its own autoencoder.
    256: Config(
        size=256,
        autoencoder=Autoencoder(
            widths=(16, 16, 24, 48, 64),
            latent_channels=8,
            batch=48,
            crop=128,
            crops=256,
            learning_rate=2e-3,
            minutes=1.6,
            decoder_minutes=1,
        ),
        text=Text(batch=1024, minutes=1),
        denoiser=Denoiser(batch=512, ema_decay=0.998, minutes=3.75, flow_minutes=0.75, distil_minutes=0.7),
        classifier=Classifier(widths=(48, 96, 192, 384), side=128, batch=256, minutes=0.75, style_minutes=0.5),
    ),
}


def preset(size: int, **changes: object) -> Config:
    """The preset for ``size``-pixel pictures with the given fields replaced."""
    return replace(PRESETS[size], **changes)
