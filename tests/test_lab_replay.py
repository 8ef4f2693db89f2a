"""Trajectories of finished pictures: every step is made again, and what is said of the end is true."""

import json
from pathlib import Path

import pytest
from conftest import ToyModel, toy, write_png
from labs import WAIT, done, laboratory
from PIL import Image
from test_lab_trajectory import pixels

from samplers.registry import Registry
from webui.core.picture_metadata import read_picture
from webui.core.record import MetadataError
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.events import Failed, StoppedEarly
from webui.settings import Settings
from webui.tabs.lab.replay_trajectory import replay_trajectory
from webui.tabs.lab.trajectory import MOST_STEPS, make_trajectory
from webui.tabs.lab.trajectory_view import _finished


@pytest.fixture
def engine(registry, tmp_path):
    with laboratory(registry, tmp_path) as running:
        yield running


def make(engine, **fields):
    job = engine.submit(Request(**fields))
    assert job.wait(WAIT).info["stopped"] is False
    return [Path(picture.path) for picture in job.pictures]


def edited(path, change):
    """The picture with its record changed."""
    record = json.loads(json.dumps(read_picture(path).record.data))
    change(record)
    other = path.with_name(f"edited-{len(list(path.parent.iterdir()))}.png")
    write_png(Image.open(path), other, record)
    return other


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "Heun", "DPM++ 2M SDE", "Flow", "Restart"])
@pytest.mark.parametrize("index", [0, 2])
def test_every_step_of_a_picture_is_made_again(engine, name, index):
    fields = dict(prompt="cat", sampler=name, schedule="Karras", steps=5)
    file = make(engine, **fields, seed=7, count=3)[index]
    info, frames = done(engine, replay_trajectory(engine, file))
    assert info["comparison"] == f"compared with {file.name}, the final picture is bit-equal" and info["seeds"] == [
        7 + index
    ]
    assert [frame.sigma for frame in frames] == read_picture(file).record.data["sigmas"]
    assert pixels(frames[-1].state) == pixels(file)
    # Watched among its batch or alone, it is the same run: on this model the batch changes no bit.
    _, alone = done(engine, make_trajectory(engine, Request(**fields, seed=7 + index)))
    assert [(f.state, f.denoised, f.seen) for f in frames] == [(f.state, f.denoised, f.seen) for f in alone]
    assert [f.change for f in frames[1:]] == pytest.approx([f.change for f in alone[1:]], rel=1e-6)


def test_on_the_embedded_model_the_gap_is_the_picture_s_own(registry, tmp_path, emoji):
    settings = Settings(root=tmp_path, outputs=tmp_path / "outputs", model="emoji")
    engine = Engine(registry, settings, lambda found, device: emoji, lambda folder: {"emoji": emoji.info})
    engine.start()
    try:
        fields = dict(prompt="red apple", sampler="Heun", schedule="Uniform leading", steps=3, guidance_low=0.5)
        fields |= dict(width=64, height=64)
        file = make(engine, **fields, seed=4, count=2)[1]
        info, frames = done(engine, replay_trajectory(engine, file))
        assert info["comparison"].endswith("is bit-equal") and pixels(frames[-1].state) == pixels(file)
        _, alone = done(engine, make_trajectory(engine, Request(**fields, seed=5)))
        gaps = [frame.gap for frame in frames]
        assert None in gaps[1:] and gaps == [f.gap and pytest.approx(f.gap, rel=1e-3) for f in alone]
    finally:
        engine.close()


def test_nothing_is_left_in_the_outputs(engine):
    (file,) = make(engine, prompt="cat", steps=3, seed=1)
    before = sorted(engine.settings.outputs.rglob("*"))
    done(engine, replay_trajectory(engine, file))
    assert sorted(engine.settings.outputs.rglob("*")) == before


def test_a_picture_that_was_changed_is_not_called_equal(engine):
    (file,) = make(engine, prompt="cat", steps=3, seed=1)
    touched = file.with_name("touched.png")
    write_png(Image.open(file).point(lambda value: max(0, value - 3)), touched, read_picture(file).record.data)
    info, _ = done(engine, replay_trajectory(engine, touched))
    assert (
        info["comparison"]
        == "compared with touched.png, the final picture differs by at most 3/255; nothing that is recorded has changed"
    )
    assert _finished(info).endswith(info["comparison"])


def test_the_recorded_sigmas_and_threads_count(engine):
    (file,) = make(engine, prompt="cat", steps=3, seed=1)
    other = edited(file, lambda record: record["sigmas"].__setitem__(0, 3.5) or record.update(threads=2))
    info, frames = done(engine, replay_trajectory(engine, other))
    assert frames[0].sigma == 3.5 and "differs by" in info["comparison"] and "thread" not in info["comparison"]


def test_an_input_picture_is_taken_from_where_it_was_kept(engine, tmp_path):
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "input.png")
    fields = dict(mode="img2img", image=tmp_path / "input.png", strength=0.5)
    (file,) = make(engine, prompt="cat", steps=6, seed=1, **fields)
    (tmp_path / "input.png").unlink()
    info, frames = done(engine, replay_trajectory(engine, file))
    assert info["comparison"].endswith("is bit-equal") and len(frames) == 1 + 3
    for kept in (engine.settings.outputs / "inputs").iterdir():
        kept.unlink()
    with pytest.raises(RequestError, match="Its input picture inputs/.* is not in the outputs folder"):
        replay_trajectory(engine, file)


def test_what_is_missing_is_named(engine, registry, tmp_path):
    (file,) = make(engine, prompt="cat", sampler="Euler", steps=3, seed=1)
    with pytest.raises(RequestError, match="Unknown model 'gone'"):
        replay_trajectory(engine, edited(file, lambda record: record["request"].update(model="gone")))
    with pytest.raises(RequestError, match="Unknown schedule 'elsewhere/x'"):
        replay_trajectory(engine, edited(file, lambda record: record["schedule"].update(id="elsewhere/x")))
    fewer = Registry({k: v for k, v in registry.samplers.items() if k != "Euler"}, registry.schedules)
    bare = Engine(fewer, engine.settings, lambda found, device: ToyModel(found), lambda folder: {"toy": toy()})
    with pytest.raises(RequestError, match="Unknown sampler 'built-in/euler/Euler'"):
        replay_trajectory(bare, file)
    job = engine.submit_task(
        replay_trajectory(engine, edited(file, lambda record: record["model"].update(digest="ffff")))
    )
    assert (
        isinstance(job.wait(WAIT), Failed)
        and "has hash 0123456789, and the picture was made with another" in job.outcome.message
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(MetadataError):
        replay_trajectory(engine, tmp_path / "plain.png")
    (long,) = make(engine, prompt="cat", steps=MOST_STEPS + 1, seed=1)
    with pytest.raises(RequestError, match=f"at most {MOST_STEPS} steps"):
        replay_trajectory(engine, long)


def test_stopped_on_the_way_it_says_nothing_of_the_end(registry, tmp_path, gate):
    with laboratory(registry, tmp_path / "first") as engine:
        (file,) = make(engine, prompt="cat", steps=8, seed=1)
    with laboratory(registry, tmp_path, gate) as engine:
        job = engine.submit_task(replay_trajectory(engine, file))
        gate.let(3)
        gate.arrived(4)
        engine.stop(job)
        gate.let(1)
        assert isinstance(job.wait(WAIT), StoppedEarly) and "again" not in job.outcome.info
        assert [frame.number for frame in job.snapshot().parts] == [0, 1, 2, 3] and _finished(job.outcome.info) == ""
