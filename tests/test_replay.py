"""A picture is drawn again from its metadata, to the last bit, by samplers of every kind, here and in a new process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, ToyModel, toy, write_png
from PIL import Image, ImageFilter
from test_metadata import png

from samplers.registry import Registry
from webui.core.export import convert
from webui.core.picture_metadata import read_picture
from webui.core.record import MetadataError, digest_of, read_record
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.jobs import Finished
from webui.engine.replay import recipe
from webui.engine.replay_verdict import changes
from webui.importers.imported_settings import from_record
from webui.replay_command import replay_file, replay_files
from webui.settings import Settings

# One of each kind: deterministic, stochastic, adaptive, distilled, on Brownian paths, multistep, bridged.
# test_kept_pictures.py compares the pictures of all samplers, and test_samplers.py repeats all their runs.
SAMPLERS = ["DDIM", "DDPM", "Euler", "Flow", "LCM", "DPM++ 3M SDE", "k-diffusion Euler ancestral"]
SAMPLERS += ["diffusers UniPC"]
STEPS = 3
SIZE = dict(width=64, height=64)  # as small as the embedded model makes
OPTIONS = {"Flow": {"tolerance": 0.01}}  # the fewest calls that it takes


def make(engine, **fields):
    """Paths of the pictures of a request."""
    job = engine.submit(Request(**fields), previews=False)
    outcome = job.wait(300)
    assert isinstance(outcome, Finished), outcome
    return [picture.path for picture in job.pictures]


@pytest.fixture(scope="module")
def pairs(real):
    """Two pictures, drawn together, by sampler."""
    fields = dict(prompt="red apple", steps=STEPS, seed=5, count=2, **SIZE)
    return {name: make(real, sampler=name, options=OPTIONS.get(name, {}), **fields) for name in SAMPLERS}


@pytest.fixture(scope="module")
def from_picture(real, pairs):
    return make(real, mode="img2img", image=pairs["DDIM"][0], prompt="rocket", steps=6, strength=0.5, seed=3, **SIZE)[0]


# All of them are drawn again below, in a new process.
@pytest.mark.parametrize("name", ["DDPM", "DPM++ 3M SDE", "diffusers UniPC"])
def test_a_sampler_makes_its_picture_again(real, pairs, name):
    verdict = replay_file(real, pairs[name][0])
    assert verdict.equal
    assert str(verdict) == "bit-equal"


@pytest.mark.parametrize("name", ["DDIM", "k-diffusion Euler ancestral", "Flow"])
def test_another_batch_size_is_within_one_step_of_colour(real, pairs, name):
    verdict = replay_file(real, pairs[name][1], one_at_a_time=True)
    assert verdict.largest <= 1
    own_grid = name == "Flow"  # which draws each picture alone anyway
    assert (verdict.changed == ()) == own_grid
    assert own_grid or verdict.changed[0] == "the number of pictures drawn together is 1 and was 2"


def test_a_fresh_process_makes_all_again_and_goes_on_after_errors(real, pairs, from_picture, tmp_path):
    name, data = convert(pairs["Euler"][0], "JPEG")
    (tmp_path / name).write_bytes(data)
    again = [paths[1] for paths in pairs.values()] + [from_picture, tmp_path / name]
    touched, plain = tmp_path / "touched.png", tmp_path / "plain.png"
    record = read_picture(pairs["DDIM"][0]).record.data
    pixels = Image.open(pairs["DDIM"][0])
    write_png(pixels.point(lambda value: min(255, value + 3)), touched, record)
    pixels.save(plain)
    command = [sys.executable, ROOT / "launch.py", "replay", "--no-setup", "--no-plugins"]
    # The thread count is the picture's, whatever that of the new process would be.
    run = subprocess.run(
        [*command, "--outputs", real.settings.outputs, "none.png", plain, touched, *again],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    missing, edited, changed, *equal = run.stdout.splitlines()
    assert missing.startswith("none.png: The picture cannot be read")
    assert edited == (
        f"{plain}: The picture carries no settings; pictures lose them when they are edited or sent by messengers."
    )
    assert changed == f"{touched}: differs by at most 3/255; nothing that is recorded has changed"
    expected = [f"{file}: bit-equal" for file in again]
    expected[-1] += " to the picture before it was saved as JPEG"
    assert equal == expected


def test_the_command_succeeds_where_all_are_equal(real, pairs, capsys):
    file = pairs["DDIM"][1]
    assert replay_files(real.settings, [file]) == 0
    assert capsys.readouterr().out == f"{file}: bit-equal\n"


def test_one_at_a_time_a_batch_equals_singles(real, emoji, registry, tmp_path):
    settings = replace(real.settings, outputs=tmp_path / "outputs", one_at_a_time=True)
    engine = Engine(registry, settings, lambda found, device: emoji)
    engine.start()
    try:
        fields = dict(prompt="blue whale", sampler="DPM++ SDE", steps=STEPS, **SIZE)
        together = make(engine, **fields, seed=8, count=3)
        singles = [make(engine, **fields, seed=seed)[0] for seed in (8, 9, 10)]
        for one, other in zip(together, singles, strict=True):
            assert Image.open(one).tobytes() == Image.open(other).tobytes()
            assert len(read_picture(one).record.data["batch"]) == 1
        assert str(replay_file(engine, together[2], one_at_a_time=True)) == "bit-equal"
    finally:
        engine.close()


def test_img2img_is_made_again_from_its_kept_input(real, pairs, from_picture, tmp_path):
    assert str(replay_file(real, from_picture)) == "bit-equal"
    digest = read_picture(from_picture).record.data["input_digest"]
    kept = real.settings.outputs / "inputs" / f"{digest}.png"
    assert digest_of(Image.open(kept)) == digest
    hidden = kept.rename(tmp_path / "elsewhere.png")
    try:
        with pytest.raises(
            RequestError, match=f"inputs/{digest}.png is not in the outputs folder; give it with --input"
        ):
            replay_file(real, from_picture)
        assert replay_file(real, from_picture, image=hidden).equal
        with pytest.raises(RequestError, match="another one than"):
            replay_file(real, from_picture, image=pairs["DDIM"][1])
    finally:
        hidden.rename(kept)


def test_a_replay_leaves_nothing_in_the_outputs(real, pairs):
    before = sorted(real.settings.outputs.rglob("*"))
    replay_file(real, pairs["DDIM"][0])
    assert sorted(real.settings.outputs.rglob("*")) == before


# The rest needs no real model.


@pytest.fixture
def bench(registry, tmp_path):
    engines = []

    def start(known=registry, model=ToyModel, **more):
        settings = Settings(root=tmp_path, outputs=tmp_path / "outputs", model="toy", device="cpu", **more)
        engines.append(Engine(known, settings, lambda found, device: model(found), lambda folder: {"toy": toy()}))
        engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def edited(path, change):
    """The picture with its record changed."""
    record = json.loads(json.dumps(read_picture(path).record.data))
    change(record)
    return png(
        path.with_name(f"edited-{len(list(path.parent.iterdir()))}.png"), ("sigmalab", json.dumps(record)), source=path
    )


def test_the_record_has_what_a_replay_needs(bench):
    (path,) = make(bench(), prompt="a", steps=3, seed=1)
    record = read_picture(path).record.data
    assert record["pixels"] == digest_of(Image.open(path))
    assert record["threads"] == torch.get_num_threads()
    assert set(record["model"]) == {"name", "digest", "device", "dtype", "hardware", "prediction"}
    assert record["batch"] == [1]


def test_what_changed_is_named(bench):
    engine = bench()
    (path,) = make(engine, prompt="a", steps=3, seed=1)

    def change(record):
        record["packages"]["torch"] = "1.0"
        record["model"]["hardware"] = "abacus"
        record["sampler"]["digest"] = "0" * 16
        record["threads"] = 10**9
        record["model"].update(prediction="v_prediction", compiled="torch.compile")

    said = str(replay_file(engine, edited(path, change)))
    version = torch.__version__
    assert said.startswith(f"bit-equal, although torch is {version} and was 1.0; the processor is ")
    assert "the prediction type is epsilon and was v_prediction; the backend is torch and was compile" in said
    assert "was abacus" in said
    assert "the digest of built-in/ddim/DDIM is" in said
    assert "the thread count is" in said


def test_the_recorded_sigmas_are_walked(bench):
    engine = bench()
    (path,) = make(engine, prompt="a", steps=3, seed=1)
    other = edited(path, lambda record: record["sigmas"].__setitem__(0, 3.5))
    assert recipe(other, engine).resolved.plan.sigmas[0] == 3.5
    assert replay_file(engine, other).largest > 0


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda r: r.update(noise_version=2), "noise streams of version '2'; this Sigmalab has 1"),
        (lambda r: r["sampler"].update(id="elsewhere/x/DDIM"), "Unknown sampler 'elsewhere/x/DDIM'"),
        (lambda r: r["schedule"].update(id="elsewhere/x/Karras"), "Unknown schedule 'elsewhere/x/Karras'"),
        (lambda r: r.pop("sampler"), "name no sampler"),
        (lambda r: r["request"].update(model="v1-5"), "Unknown model 'v1-5'"),
        (
            lambda r: r["model"].update(digest="ffff"),
            "has hash 0123456789, and the picture was made with another .hash ffff",
        ),
        (lambda r: r["model"].update(vae="ffff"), "used with its own VAE here, .* made with VAE ffff beside it"),
        (lambda r: r["model"].update(parts="ffff"), "text encoder and VAE .* was made with others .hash ffff"),
        (lambda r: r.update(batch=[7]), "batch is not"),
        (lambda r: r.update(batch=[1, 5]), "batch is not"),
        (lambda r: r.update(batch=[True]), "batch is not"),
        (lambda r: r.update(batch="1"), "batch is not"),
        (lambda r: r.update(batch=list(range(1, 200))), "Count is 199; allowed"),
        (lambda r: r.update(sigmas=[]), "sigmas are not"),
        (lambda r: r.update(sigmas=[1, "a", 0]), "sigmas are not"),
        (lambda r: r.update(sigmas=[1, 2, 0]), "sigmas do not fall"),
        (lambda r: r.update(sigmas=[10**400, 1, 0]), "sigmas are not"),
        (lambda r: r.update(sigmas=[1e999, 1, 0]), "damaged"),
        (lambda r: r["request"].update(width=1 << 15), "makes"),
        (lambda r: r["request"].update(width=90), "made with weights of hash 0123456789; those here may be others"),
        (lambda r: r.pop("request"), "incomplete"),
        (lambda r: r["request"].update(mode="img2img"), "do not name its input"),
        (
            lambda r: (r["request"].update(mode="img2img"), r.update(input_digest="../../secret")),
            "do not name its input",
        ),
    ],
)
def test_what_cannot_be_made_again_is_refused_and_never_replaced(bench, change, said):
    engine = bench()
    (path,) = make(engine, prompt="a", steps=3, seed=1)
    other = edited(path, change)
    with pytest.raises(RequestError, match=said):
        replay_file(engine, other)


def test_a_missing_plugin_is_named(bench, registry):
    (path,) = make(bench(), prompt="a", steps=3, seed=1, sampler="Euler")
    fewer = Registry({k: v for k, v in registry.samplers.items() if k != "Euler"}, registry.schedules)
    with pytest.raises(RequestError, match="Unknown sampler 'built-in/euler/Euler'; known are Calibrated, DDIM"):
        replay_file(bench(fewer), path)


def test_a_shared_page_neither_keeps_nor_gives_inputs(bench, tmp_path):
    Image.new("RGB", (64, 64), "teal").filter(ImageFilter.BLUR).save(tmp_path / "in.png")
    fields = dict(mode="img2img", image=tmp_path / "in.png", prompt="a", steps=3, seed=1)
    (private,) = make(bench(), **fields)
    shared = bench(host="0.0.0.0", auth=("a", "b"))
    with pytest.raises(RequestError, match="shared page"):
        recipe(private, shared)
    kept = list((tmp_path / "outputs" / "inputs").iterdir())
    kept[0].unlink()
    make(shared, **fields)
    assert not list((tmp_path / "outputs" / "inputs").iterdir())


def test_threads_are_given_back(bench):
    before = torch.get_num_threads()
    engine = bench()
    (path,) = make(engine, prompt="a", steps=3, seed=1)
    verdict = replay_file(engine, edited(path, lambda record: record.update(threads=2)))
    assert verdict.changed == ()
    assert torch.get_num_threads() == before
    assert read_picture(make(engine, prompt="a", steps=3, seed=1)[0]).record.data["threads"] == before


def test_other_pictures_are_not_ours_to_make_again(bench, tmp_path):
    with pytest.raises(MetadataError, match="own settings"):
        recipe(png(tmp_path / "a.png", ("parameters", "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7")), bench())


def test_changes_of_old_records_say_nothing_of_what_they_do_not_have(bench):
    (path,) = make(bench(), prompt="a", steps=3, seed=1)
    new = read_picture(path).record
    assert changes(read_record({"packages": {"torch": new.packages["torch"]}, "batch": [1]}), new) == []
    assert Path(path).name.endswith("-1.png")


@pytest.fixture
def toys(bench):
    return bench()


def older(path, folder, **changes):
    """The picture as a version of its sampler drew it that had no option `path`."""
    data = json.loads(json.dumps(read_picture(path).record.data))
    del data["request"]["options"]["path"]
    (folder / "older.png").unlink(missing_ok=True)
    write_png(Image.open(path), folder / "older.png", data | dict(sampler=data["sampler"] | {"version": "1"}) | changes)
    return folder / "older.png"


def test_a_picture_from_before_an_option_is_drawn_as_it_was(toys, tmp_path):
    fields = dict(prompt="a cat", sampler="DPM++ 2M SDE", steps=4, seed=5)
    (then,), (now,) = (make(toys, **fields, options={"path": path}) for path in ("seed", "steps"))
    assert Image.open(then).tobytes() != Image.open(now).tobytes()
    file = older(then, tmp_path)
    assert replay_file(toys, file).equal
    assert from_record(read_picture(file).record, toys.registry, {}).fields["options"]["path"] == "seed"
    assert not replay_file(toys, older(now, tmp_path)).equal


@pytest.mark.parametrize("version, path", [("1", "seed"), ("2", "steps")])
def test_a_second_pass_is_drawn_as_it_was_too(toys, tmp_path, version, path):
    fields = dict(prompt="a cat", sampler="DPM++ SDE", hires_sampler="DPM++ 2M SDE", hires_scale=1.5, steps=2, seed=5)
    (drawn,) = make(toys, **fields, hires_steps=2)
    (second,) = read_picture(drawn).record.data["later_passes"]
    later = [second | dict(sampler=second["sampler"] | {"version": version})]
    ready = recipe(older(drawn, tmp_path, later_passes=later), toys).resolved
    assert (ready.plan.options["path"], ready.hires_plan.options["path"]) == ("seed", path)
