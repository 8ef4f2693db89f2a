"""The upscalers of other programs by the names that they have here: interpolations, and files in weights/upscalers/."""

from __future__ import annotations

import re
from collections.abc import Iterable

from webui.core.menus import LATENT

# A1111's latent upscalers that are torch's interpolations without antialiasing.
LATENT_NAMES = {"latent": "Latent bilinear"} | {name.casefold(): name for name in LATENT}
# The files behind the names that A1111, Forge and SD.Next give to the networks they fetch.
FILES = {
    "R-ESRGAN 4x+": "RealESRGAN_x4plus",
    "R-ESRGAN 4x+ Anime6B": "RealESRGAN_x4plus_anime_6B",
    "R-ESRGAN 2x+": "RealESRGAN_x2plus",
    "R-ESRGAN General 4xV3": "realesr-general-x4v3",
    "R-ESRGAN General WDN 4xV3": "realesr-general-wdn-x4v3",
    "R-ESRGAN AnimeVideo": "realesr-animevideov3",
    "ESRGAN_4x": "ESRGAN",
    "ScuNET": "scunet_color_real_gan",
    "ScuNET PSNR": "scunet_color_real_psnr",
    "SwinIR 4x": "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN",
}
ENDINGS = re.compile(r"\.(pth|pt|ckpt|safetensors|bin)$")
KIND = re.compile(r"^model-|^esrgan[ _-](?=.*\dx|.*x\d)")  # SwarmUI's mark of a file, and SD.Next's of its kind


def match_upscaler(name: str, names: Iterable[str]) -> str:
    """The upscaler among these names that another program's name means; "" if none does.

    Case, signs between words, their order and the ending of a file do not count: "ESRGAN 4x Ultrasharp" is
    "4x-UltraSharp".
    """
    plain = name.strip().casefold().replace("(", "").replace(")", "")
    if plain in LATENT_NAMES:
        return LATENT_NAMES[plain]
    known = {_key(each): each for each in names}
    file = {_key(theirs): ours for theirs, ours in FILES.items()}.get(_key(name), "")
    return known.get(_key(name)) or known.get(_key(file) if file else (), "")


def _key(name: str) -> tuple[str, ...]:
    """The words of a name, in one order."""
    text = KIND.sub("", ENDINGS.sub("", name.strip().casefold()))
    return tuple(sorted(re.findall(r"[a-z0-9+]+", text)))
