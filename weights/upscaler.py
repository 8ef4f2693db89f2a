"""Networks that enlarge pictures (ESRGAN, Real-ESRGAN, SwinIR, DAT, HAT and others), opened by spandrel, run in tiles.

spandrel knows the architectures; files are read here, with the checks of every other file of weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from samplers.tiles import Blend, tiles_of

from .autoencoder import image_to_tensor, tensor_to_image
from .families.unsupported_models import describe_unsupported
from .model_info import ModelError, describe_error
from .oom import out_of_memory
from .tensors import TensorFile, open_tensors, read_shapes

PREFIXES = ("module.", "netG.")  # that training code leaves before every name
TILES = (512, 256, 128, 64)  # pixels of a side
ON_CPU = 256  # pixels: larger tiles are not faster there
OVERLAP = 32  # pixels that neighbouring tiles share
# Of GPU memory for a pixel of a tile: what an ESRGAN that enlarges by four takes.
TILE_BYTES = 24_000
MOST_PIXELS = 256_000_000  # of what a network makes, before it is brought to the wanted size

log = logging.getLogger(__name__)


class Upscaler:
    """An opened network that enlarges RGB pictures by a whole factor.

    digest   of its file
    network  spandrel's ImageModelDescriptor; `Any`, because importing its type would import spandrel
    """

    def __init__(self, name: str, digest: str, network: Any, device: torch.device):
        self.name, self.digest, self.device, self.dtype = name, digest, device, network.dtype
        self._network = network

    @property
    def scale(self) -> int:
        """How many times wider and higher its result is."""
        return self._network.scale

    @torch.inference_mode()
    def __call__(self, image: Image.Image, on_tile: Callable[[int, int], None] = lambda done, of: None) -> Image.Image:
        """The enlarged picture, made in overlapping tiles as large as the memory allows.

        on_tile  called with (tiles done, tiles in all) before each tile; what it raises ends the work
        Raises ModelError for a picture that is too large for this network, and MemoryError.
        """
        pixels = image.width * image.height * self.scale**2
        if pixels > MOST_PIXELS:
            raise ModelError(
                f"upscaler {self.name} would make {pixels // 1_000_000} megapixels of a picture of "
                f"{image.width}x{image.height}; give a smaller one, or choose Lanczos"
            )
        from spandrel import ModelTiling

        whole = self._network.tiling is ModelTiling.INTERNAL
        sides = [max(image.size)] if whole else [side for side in TILES if side <= self._largest_tile()]
        values = (image_to_tensor(image) + 1) / 2
        for side in sides:
            try:
                return tensor_to_image(self._in_tiles(values, side, on_tile) * 2 - 1)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                log.info("the memory was not enough for tiles of %d pixels", side)
            # Outside of the except block: only there are the failed attempt's tensors gone.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        raise MemoryError(f"upscaler {self.name} does not fit into the memory")

    def _largest_tile(self) -> int:
        # By all memory and not by what is free now: on one machine, a picture is made in the same tiles each time.
        if self.device.type != "cuda":
            return ON_CPU
        room = torch.cuda.get_device_properties(self.device).total_memory
        return next((side for side in TILES if TILE_BYTES * side**2 < room / 2), TILES[-1])

    def _in_tiles(self, values: torch.Tensor, side: int, on_tile: Callable[[int, int], None]) -> torch.Tensor:
        """Pixels (1, 3, height, width) from 0 to 1, enlarged: (3, scale * height, scale * width)."""
        height, width = values.shape[-2:]
        overlap = min(OVERLAP, side // 4)
        tiles = tiles_of((height, width), (side, side), overlap)
        blend = Blend((3, height * self.scale, width * self.scale), overlap * self.scale, torch.zeros(()))
        for done, tile in enumerate(tiles):
            on_tile(done, len(tiles))
            part = tile.of(values).to(self.device, self.dtype)
            blend.add(tile.times(self.scale), self._network(part)[0].float().cpu())
        return blend.result()


def enlarged(
    image: Image.Image,
    size: tuple[int, int],
    upscaler: Upscaler | None,
    on_tile: Callable[[int, int], None] = lambda done, of: None,
) -> Image.Image:
    """A picture at exactly this (width, height): by the network, again while it is smaller, and then by Lanczos.

    upscaler  None for Lanczos alone; a network of scale 1, which restores, works once
    Raises as `Upscaler` does.
    """
    if upscaler is not None:
        image = upscaler(image, on_tile)
        while 1 < upscaler.scale and image.width < size[0]:
            if image.width * image.height * upscaler.scale**2 > MOST_PIXELS:
                break
            image = upscaler(image, on_tile)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def check_upscaler(path: Path) -> None:
    """Raises ModelError unless a file is a network of an architecture that is known; no numbers are read."""
    file = read_shapes(path)
    shapes = {_plain(name, file): torch.empty(each, device="meta") for name, each in file.sizes.items()}
    if not any(each.detect(shapes) for each in _registry().architectures("detection")):
        raise _unknown(file)


def open_upscaler(path: Path, name: str, digest: str, device: torch.device) -> Upscaler:
    """Open an upscaler on a device: half precision on CUDA where its architecture bears it. Raises ModelError."""
    from spandrel import ImageModelDescriptor, UnsupportedModelError

    with open_tensors(path) as file:
        tensors = {_plain(each, file): file.get(each).clone() for each in file.shapes}
        try:
            network = _registry().load(tensors)
        except UnsupportedModelError:
            raise _unknown(file) from None
        # Its architectures are found by a few names; the rest may be missing or of any shape.
        except Exception as error:
            raise ModelError(
                f"upscaler {path.name} is damaged or of an unknown variant ({describe_error(error)}); download it again"
            ) from None
    if not isinstance(network, ImageModelDescriptor):
        raise ModelError(f"{path.name} fills holes in pictures and does not enlarge them")
    if (network.input_channels, network.output_channels) != (3, 3):
        raise ModelError(
            f"upscaler {path.name} is for {network.input_channels} colour channels, and only 3 are supported"
        )
    dtype = torch.float16 if device.type == "cuda" and network.supports_half else torch.float32
    network.to(device, dtype).eval()
    network.model.requires_grad_(False)
    return Upscaler(name, digest, network, device)


def _registry() -> Any:
    # Slow to import: it brings torchvision.
    from spandrel import MAIN_REGISTRY

    return MAIN_REGISTRY


def _plain(name: str, file: TensorFile) -> str:
    """A tensor's name without the prefix that all names of the file have."""
    prefix = next((each for each in PREFIXES if all(other.startswith(each) for other in file.shapes)), "")
    return name.removeprefix(prefix)


def _unknown(file: TensorFile) -> ModelError:
    what = describe_unsupported(file.shapes, file.metadata)
    return ModelError(f"{file.path.name} is no upscaler of a known architecture; it looks like {what}")
