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
class Denoiser:
    """Shape and training of the UNet."""

    widths: tuple[int, ...] = (64, 128, 192)
    # Words everywhere through the time embedding; through attention only at the levels marked here.
    attends: tuple[bool, ...] = (False, True, True)
    head_width: int = 32
    grounds: int = 3  # coloured grounds that each picture of a familiar name is encoded on; of other plain ones, one
    white: float = 0.7  # how often the ground is white
    couples: int = 24000  # pictures of two things side by side
    two: float = 0.15  # how often one of them is drawn
    house: float = 0.5  # how often the style is one that an unstyled prompt may mean, and not any
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


@dataclass(frozen=True)
class Classifier:
    """The judge: two small convolutional networks, of names and of styles, trained on real pictures only."""

    widths: tuple[int, ...] = (24, 48, 96, 192)
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
    64: Config(),
    # The latents and the UNet of 64 pixels, drawn four times as large: step `enlarge` alone trains here.
    256: Config(
        size=256,
        autoencoder=Autoencoder(widths=(16, 16, 24, 48, 64), batch=4, crop=128, crops=12, learning_rate=2e-3),
    ),
    # Eight times as much work a picture for the autoencoder (factor 8), the same 16x16 latents for
    # a wider denoiser: minutes on a data-centre GPU, days on two CPU cores.
    128: Config(
        size=128,
        autoencoder=Autoencoder(widths=(32, 64, 128, 128), batch=64, crop=64, crops=256, minutes=10),
        text=Text(width=256, layers=4, heads=4),
        denoiser=Denoiser(
            widths=(96, 192, 256),
            attends=(False, True, True),
            batch=512,
            learning_rate=1e-3,
            minutes=20,
            flow_minutes=10,
        ),
        classifier=Classifier(batch=256, minutes=4, style_minutes=3),
    ),
}


def preset(size: int, **changes: object) -> Config:
    """The preset for ``size``-pixel pictures with the given fields replaced."""
    return replace(PRESETS[size], **changes)
