"""Step ``data``: fetch the emoji sets from npm, check them, render every picture once."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from .captions import corpus, plain, train_tokenizer
from .config import Config
from .packages import NAMES, SETS, fetch

FAMILIAR = Path(__file__).with_name("familiar_names.txt")

#: An image file, or the text of an SVG and whether it is mirrored.
Source = bytes | tuple[str, bool]


def normal(code: str) -> str:
    """A code point sequence without the variation selectors, which the sets write or leave out at will."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def weight(group: int | None, code: str, name: str, sets: int, familiar: frozenset[str]) -> float:
    """How often a name is drawn in training, relative to a familiar one.

    An hour on a laptop's CPU is enough for a few hundred names, so the names of familiar_names.txt are drawn most, and
    the other plain ones (at most two words, drawn by three sets) a third as often.
    Flags, clock faces and the variants of people by gender and trade are near copies of each other.
    """
    if name in familiar:
        return 1.0
    flags, people, signs = 9, 1, 8  # emojibase's groups
    if group == flags or "o'clock" in name or name.endswith("-thirty") or (group == people and "200d" in code):
        return 0.005
    return 0.3 if group not in (people, signs) and len(name.split()) <= 2 and sets >= 3 else 0.05


def svg(icons: dict, icon: str) -> tuple[str, bool]:
    """The icon's SVG text, following aliases, and whether it is mirrored."""
    mirrored = False
    while icon not in icons["icons"]:
        alias = icons["aliases"][icon]
        mirrored ^= bool(alias.get("hFlip"))
        icon = alias["parent"]
    body = icons["icons"][icon]
    width = body.get("width", icons.get("width", 16))
    height = body.get("height", icons.get("height", 16))
    box = f"{body.get('left', 0)} {body.get('top', 0)} {width} {height}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">'
    return f"{head}{body['body']}</svg>", mirrored


def render(source: Source, size: int) -> np.ndarray:
    """A picture as straight RGBA, uint8, shape (size, size, 4)."""
    if isinstance(source, bytes):
        return square(source, size)
    import resvg_py  # only here: everything but rendering works without it

    text, mirrored = source
    png = resvg_py.svg_to_bytes(svg_string=text, width=size, height=size, skip_system_fonts=True)
    picture = square(bytes(png), size)
    return picture[:, ::-1] if mirrored else picture


def square(file: bytes, size: int) -> np.ndarray:
    """An image file's picture scaled into the middle of a transparent square."""
    image = Image.open(io.BytesIO(file)).convert("RGBA")
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return np.asarray(canvas)


def read_json(tarball: Path, member: str) -> object:
    with tarfile.open(tarball) as tar:
        return json.load(tar.extractfile(member))


def icons_of(tarball: Path, chars: dict[str, str], codes: set[str]) -> dict[str, Source]:
    """The drawing of every wanted code point sequence of an Iconify set."""
    icons = read_json(tarball, "package/icons.json")
    known = icons["icons"].keys() | icons.get("aliases", {}).keys()
    return {code: svg(icons, chars[code]) for code in sorted(codes & chars.keys()) if chars[code] in known}


def images_of(tarball: Path, codes: set[str]) -> dict[str, Source]:
    """The same from a set of images that are named by their code points."""
    files: dict[str, Source] = {}
    with tarfile.open(tarball) as tar:
        for member in tar:
            code = normal(Path(member.name).stem)
            if member.name.endswith(".webp") and code in codes:
                files[code] = tar.extractfile(member).read()
    return files


def collect(packages: Path) -> tuple[list[dict], list[Source]]:
    """What the packages have to draw, and what is known of each; fetched into a folder unless they lie there."""
    tarballs = {package: fetch(package, packages) for package in (NAMES, *SETS)}
    labels = {}
    for emoji in read_json(tarballs[NAMES], "package/en/data.json"):
        labels.setdefault(normal(emoji["hexcode"]), emoji)

    found: dict[str, dict[str, Source]] = {}
    chars: dict[str, str] = {}
    for package in SETS:
        if package.style == "3d":
            found[package.style] = images_of(tarballs[package], labels.keys())
        else:
            # The coloured Fluent set lists no code points; it has the icon names of the flat one before it.
            own = read_json(tarballs[package], "package/chars.json")
            chars = {normal(code): icon for code, icon in own.items()} or chars
            found[package.style] = icons_of(tarballs[package], chars, labels.keys())
        print(f"{package.style:8} {len(found[package.style]):5} pictures  {package.licence:10} {package.credit}")

    familiar = frozenset(FAMILIAR.read_text("utf-8").split("\n"))
    entries, sources = [], []
    for code, emoji in labels.items():
        styles = [style for style in found if code in found[style]]
        name = plain(emoji["label"])
        for style in styles:
            entries.append(
                {
                    "name": name,
                    "style": style,
                    "keywords": [plain(tag) for tag in emoji.get("tags", [])],
                    "weight": weight(emoji.get("group"), code, name, len(styles), familiar),
                    "sets": len(styles),
                    "code": code,
                }
            )
            sources.append(found[style][code])
    return entries, sources


def pack(file: Path, entries: list[dict], sources: list[Source]) -> None:
    """Write what `collect` found as one archive, for a machine without a network; `unpack` reads it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:xz", preset=9) as tar:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

        add("index.json", json.dumps(entries).encode())
        # Pictures of one set are alike, and pack best together.
        for i in sorted(range(len(sources)), key=lambda i: entries[i]["style"]):
            source = sources[i]
            if isinstance(source, bytes):
                add(f"{i}.webp", source)
            else:
                add(f"{i}.mirrored.svg" if source[1] else f"{i}.svg", source[0].encode())


def unpack(file: Path) -> tuple[list[dict], list[Source]]:
    """What `pack` has written."""
    sources: dict[int, Source] = {}
    with tarfile.open(file) as tar:
        for member in tar:
            number, *kinds = member.name.split(".")
            data = tar.extractfile(member).read()
            if number == "index":
                entries = json.loads(data)
            else:
                sources[int(number)] = data if "webp" in kinds else (data.decode(), "mirrored" in kinds)
    return entries, [sources[i] for i in range(len(entries))]


def run(config: Config) -> None:
    """Write pictures.npy (count, size, size, 4), index.json, licences.json and tokenizer/."""
    packages = config.packages or config.work / "packages"
    entries, sources = unpack(packages) if packages.is_file() else collect(packages)
    with ProcessPoolExecutor() as pool:  # one process a core
        pictures = list(pool.map(partial(render, size=config.size), sources, chunksize=16))

    config.folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(config, entries)
    (config.folder / "licences.json").write_text(json.dumps([asdict(p) for p in (NAMES, *SETS)], indent=1))
    np.save(config.folder / "pictures.tmp.npy", np.stack(pictures))
    os.replace(config.folder / "pictures.tmp.npy", config.folder / "pictures.npy")
    (config.folder / "index.json").write_text(json.dumps(entries, indent=0))
    print(f"{len(entries)} pictures of {len({e['name'] for e in entries})} names in {config.folder}")


def write_tokenizer(config: Config, entries: list[dict]) -> None:
    """One made from these captions, or that of the model to go on from: its words have their numbers already."""
    folder = config.folder / "tokenizer"
    if config.start:
        shutil.copytree(config.start / "tokenizer", folder, dirs_exist_ok=True)
    else:
        train_tokenizer(corpus(entries), config.text.vocabulary, config.text.length, folder)


def load(config: Config) -> tuple[np.ndarray, list[dict]]:
    """What ``run`` wrote: pictures (count, size, size, 4) uint8, mapped from disk, and their entries."""
    try:
        pictures = np.load(config.folder / "pictures.npy", mmap_mode="r")
        return pictures, json.loads((config.folder / "index.json").read_text())
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} is missing. First: python -m training data --size {config.size}") from None
