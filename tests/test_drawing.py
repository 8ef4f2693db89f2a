"""A drawing is composed: passes one after another, a mask around the denoiser, and the same sink for the result."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from samplers.run import Pass
from webui.core.picture_metadata import read_picture
from webui.core.request import Request
from webui.core.resolved_request import resolve
from webui.engine.drawing import Drawing, draw
from webui.engine.events import Picture
from webui.engine.job_context import JobContext


@pytest.fixture
def drawn(registry, emoji, tmp_path):
    """draw(drawing) on the embedded model: its info and the paths of its pictures."""

    def start(drawing: Drawing, **how) -> tuple[dict, list[Path]]:
        told = []
        context = JobContext(emoji, registry, tmp_path, lambda: False, lambda: 0.0, False, told.append)
        info = draw(drawing, context, previews=False, **how)
        return info, [event.path for event in told if isinstance(event, Picture)]

    start.resolve = lambda **fields: resolve(Request(**fields), registry, {"emoji": emoji.info})
    return start


def test_a_second_pass_enlarges_the_picture(drawn):
    first = drawn.resolve(prompt="red apple", steps=4, seed=3)
    again = drawn.resolve(prompt="red apple", steps=3, seed=3).plan
    enlarge = lambda x: torch.nn.functional.interpolate(x, scale_factor=2.0)  # noqa: E731
    info, (path,) = drawn(Drawing(first, later_passes=(Pass(replace(again, sigmas=again.sigmas[1:]), enlarge),)))
    assert Image.open(path).size == (2 * first.request.width, 2 * first.request.height)
    assert info["nfe"] == 4 + 2
    assert read_picture(path).record.data["sigmas"] == info["sigmas"]
