"""Every sampler still draws the picture that it drew before: tests/kept_pictures.json has the digests.

The last bits of a picture depend on torch and on the processor. On the kind of machine that the digests are from, every
bit is compared; on another one, the mean colours of a 4 x 4 grid of tiles.

`python tests/test_kept_pictures.py` writes the file anew, which only new weights of emoji or a new version of a sampler
give a reason for.
"""

import json
import platform
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from samplers.registry import discover  # noqa: E402
from webui.core.record import digest_of  # noqa: E402
from webui.core.request import Request  # noqa: E402
from webui.engine.engine import Engine  # noqa: E402
from webui.engine.jobs import Finished  # noqa: E402
from webui.settings import Settings  # noqa: E402

FILE = Path(__file__).with_suffix("").with_name("kept_pictures.json")
TILES, CLOSE = 4, 3.0  # tiles a side; difference of their means, of 255, that another processor's rounding may make
# What was the default when the pictures were made is said here where the default has changed since.
SETTINGS = dict(model="emoji", prompt="red apple", steps=4, seed=5, schedule="Uniform leading")
OPTIONS = {
    "LMS": {"order": 4},
    "DEIS": {"order": 3},
    "iPNDM": {"order": 4},
    "DPM++ 3M": {"longest": 10},
    "DPM++ 3M SDE": {"longest": 10, "path": "seed"},
    "DPM++ 2M SDE": {"path": "seed"},
    "DPM++ SDE": {"path": "seed"},
}
MORE = {
    "img2img": dict(mode="img2img", prompt="rocket", sampler="Euler", steps=6, strength=0.5, strength_as="noise"),
    "weights and negative": dict(
        prompt="(red:1.3) apple", negative_prompt="[green]", sampler="DPM++ 2M", schedule="Karras"
    ),
    "conditioning": dict(sampler="Heun", clip_skip=2, guidance_rescale=0.5, guidance_low=0.5, guidance_high=8.0),
    "flow model": dict(model="emoji-flow", sampler="UniPC", schedule="Uniform trailing"),
    "no guidance": dict(sampler="DDIM", guidance=1.0, options={"eta": 1.0}),
}


def cases(registry):
    """The requests by name: one of each sampler, and some that go through everything else."""
    return {name: dict(SETTINGS, sampler=name, options=OPTIONS.get(name, {})) for name in registry.samplers} | {
        name: SETTINGS | fields for name, fields in MORE.items()
    }


def machine():
    """What the last bits depend on: torch, and the processor, whose libraries choose their kernels by its name."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    name = named[1] if named else platform.processor()
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {name}"


def tiles(picture):
    """The mean colours of the tiles, row by row."""
    pixels = np.asarray(picture.convert("RGB"), float)
    side = pixels.shape[0] // TILES
    return pixels.reshape(TILES, side, TILES, side, 3).mean((1, 3)).round(1).reshape(-1, 3).tolist()


def draw(engine, folder, fields):
    """The picture of a request, drawn alone by one thread: half as large as the model's own where that is large, which
    tells as much and takes less."""
    side = max(64, engine.models()[fields["model"]].defaults.size // 2)
    fields = dict(fields, width=side, height=side)
    if fields.get("mode") == "img2img":
        Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(folder / "input.png")
        fields = dict(fields, image=folder / "input.png")
    job = engine.submit(Request(**fields), previews=False)
    outcome = job.wait(300)
    assert isinstance(outcome, Finished), outcome
    return Image.open(job.pictures[0].path)


def engine_in(folder):
    """An engine on the embedded models, with its pictures in a folder."""
    registry = discover(ROOT / "plugins", packages=False)
    settings = Settings(root=ROOT, outputs=folder / "outputs", weights=ROOT / "weights", device="cpu", model="emoji")
    return Engine(registry, settings)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    engine = engine_in(folder)
    engine.folder = folder
    engine.start()
    yield engine
    engine.close()


KEPT = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}


def test_every_sampler_is_kept(engine):
    assert KEPT["pictures"].keys() == cases(engine.registry).keys()


# Models one after the other: opening one lets the other go.
@pytest.mark.parametrize("name", sorted(KEPT.get("pictures", {}), key=lambda name: name == "flow model"))
def test_the_picture_is_the_one_of_before(engine, name):
    kept, made = KEPT["pictures"][name], draw(engine, engine.folder, cases(engine.registry)[name])
    assert np.abs(np.array(tiles(made)) - kept["tiles"]).max() <= CLOSE
    if KEPT["machine"] == machine():
        assert digest_of(made) == kept["digest"]


def write():
    """Draw all of them and write the file."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        engine = engine_in(folder := Path(name))
        engine.start()
        made = {}
        for case, fields in sorted(cases(engine.registry).items(), key=lambda pair: pair[0] == "flow model"):
            picture = draw(engine, folder, fields)
            made[case] = dict(digest=digest_of(picture), tiles=tiles(picture))
        engine.close()
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(kept)}" for name, kept in made.items())
    FILE.write_text(f'{{"machine": {json.dumps(machine())}, "pictures": {{\n{lines}\n}}}}\n', "utf-8")


if __name__ == "__main__":
    write()
