"""Grids: every cell is the picture of its request alone, made once, with reasons where there is none."""

import json
import zipfile
from dataclasses import replace
from io import BytesIO

import pytest
from labs import WAIT, done, drawn, laboratory
from PIL import Image

from samplers import Step, sampler
from samplers.registry import Entry, Registry
from webui.core.picture_metadata import read_picture
from webui.core.record import read_record
from webui.core.request import Request, RequestError
from webui.engine.events import StoppedEarly
from webui.tabs.lab.axes import hint, kinds, menu, read_axis, split
from webui.tabs.lab.axes_view import read_axes, recall_axes
from webui.tabs.lab.cell_cache import CellCache, key_of_record, key_of_request
from webui.tabs.lab.compare import CellFailed, CellMade, Compare, cost_of
from webui.tabs.lab.grid import ImpossibleCell, make_grid
from webui.tabs.lab.grid_sheet import KEYWORD, encode_sheet, file_name, write_zip
from weights.identity import Patch


@pytest.fixture
def engine(registry, tmp_path):
    with laboratory(registry, tmp_path) as running:
        yield running


def axis(engine, kind, given):
    return read_axis(kind, given, engine.registry)


def grid(engine, base, *axes, **more):
    return make_grid(engine, base, [axis(engine, *one) for one in axes], **more)


def same_pixels(one, other):
    with Image.open(one) as a, Image.open(other) as b:
        return a.tobytes() == b.tobytes()


BASE = Request(prompt="red apple", seed=7, steps=4)


@pytest.mark.parametrize(
    "kind, text, labels",
    [
        ("steps", "5, 10,20", ["5", "10", "20"]),
        ("steps", "5..20 +5", ["5", "10", "15", "20"]),
        ("steps", "2..4", ["2", "3", "4"]),
        ("guidance", "0..1 +0.25", ["0", "0.25", "0.5", "0.75", "1"]),
        ("seed", "4294967294..4294967295", ["4294967294", "4294967295"]),
        ("option:eta", "0, 0.5, 1", ["0", "0.5", "1"]),
        ("sampler", ["Euler", "DDIM"], ["Euler", "DDIM"]),
        ("sampler", "Euler, DPM++ 2M", ["Euler", "DPM++ 2M"]),
        ("option:method", "heun, dopri5", ["heun", "dopri5"]),
        ("prompt", 'red apple -> rocket, "a, b"', ["rocket", "a, b"]),
    ],
)
def test_values_are_read_as_they_are_typed(engine, kind, text, labels):
    assert [value.label for value in axis(engine, kind, text).values] == labels


@pytest.mark.parametrize(
    "kind, text, problem",
    [
        ("steps", "five", "'five' is no number"),
        ("steps", "5.5", "Steps must be a whole number from 1 to 1000"),
        ("steps", "0", "Steps must be a whole number from 1 to 1000"),
        ("guidance", "1, 31", "Guidance must be a number from 0 to 30"),
        ("steps", "", "has no values"),
        ("steps", "5, 5", "has '5' twice"),
        ("steps", "20..5", "write the lower end first"),
        ("steps", "1..900", "allowed are 256"),
        ("steps", "1..9 +0", "is no range"),
        ("steps", "1..x", "is no range"),
        ("steps", "1..inf", "is no range"),
        ("steps", "1..5 +", "is no range"),
        # A pattern tried 16,000 digits for half a minute, and 70 KB of ranges took two minutes to write out.
        ("steps", "1" * 16_000 + "x", "is no number"),
        ("steps", ".." * 15_000, "is no range"),
        ("steps", ", ".join(["1..200"] * 2_000), "allowed are 256"),
        ("steps", "1, " * 20_000, "allowed are 32000 characters"),
        ("sampler", ["Euler"] * 20_000, "allowed are 32000 characters"),
        ("seed", "-1", "another random seed"),
        ("sampler", "Oiler", "Unknown sampler 'Oiler'; known are"),
        ("option:eta", "2", "Option 'eta' is '2'; allowed is a number from 0 to 1"),
        ("option:method", "rk4", "allowed is one of"),
        ("option:nothing", "1", "Unknown axis"),
        ("prompt", "red apple, rocket", "an arrow"),
        ("prompt", "-> rocket", "an arrow"),
    ],
)
def test_a_slip_is_told_before_anything_is_made(engine, kind, text, problem):
    with pytest.raises(RequestError, match=problem.replace("(", r"\(")):
        axis(engine, kind, text)


def test_every_kind_of_axis_says_what_it_takes(engine):
    for kind in kinds(engine.registry):
        assert menu(kind, engine.registry) or hint(kind, engine.registry), kind
    assert menu("option:refine_start", engine.registry) == ["true", "false"]
    assert split('a, "b, c"\nd') == ["a", "b, c", "d"]
    with pytest.raises(RequestError, match="cannot be read"):
        split('"' + "a" * 200_000)


def test_a_cell_is_the_picture_of_its_request_alone(engine, tmp_path):
    made = grid(engine, BASE, ("sampler", ["Euler", "DDPM", "Flow"]), ("steps", "3, 5"), ("seed", "1, 2"))
    assert [cell.at for cell in made.cells][:4] == [(0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 1, 0)]
    info, parts = done(engine, Compare(made))
    assert info["made"] == info["cells"] == len(parts) == 12 and not info["stopped"]
    for part in parts:
        name, steps, seed = made.cells[part.index].labels
        alone = drawn(engine, prompt="red apple", sampler=name, steps=int(steps), seed=int(seed))
        assert same_pixels(alone, part.picture.path), name
        record, twin = read_picture(part.picture.path).record.data, read_picture(alone).record.data
        assert record == twin
        assert part.picture.nfe == record["nfe"] and part.picture.seconds >= 0


def test_second_passes_variations_and_masks_are_axes(engine, tmp_path):
    passes = ("hires_scale", "0, 1.5"), ("upscaler", "Lanczos, Latent bicubic"), ("variation_strength", "0, 0.5")
    made = grid(engine, BASE.model_copy(update={"variation_seed": 3}), *passes)
    _, parts = done(engine, Compare(made))
    pictures = {made.cells[part.index].labels: part.picture.path for part in parts}
    assert {labels: Image.open(path).size for labels, path in pictures.items()} == {
        labels: (64, 64) if labels[0] == "0" else (96, 96) for labels in pictures
    }
    for strength in ("0", "0.5"):
        assert same_pixels(pictures["0", "Lanczos", strength], pictures["0", "Latent bicubic", strength])
        assert not same_pixels(pictures["1.5", "Lanczos", strength], pictures["1.5", "Latent bicubic", strength])
    assert not same_pixels(pictures["0", "Lanczos", "0"], pictures["0", "Lanczos", "0.5"])
    upload, mask = tmp_path / "upload.png", tmp_path / "mask.png"
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(upload)
    Image.linear_gradient("L").resize((64, 64)).point(lambda value: 255 * (value > 127)).save(mask)
    base = Request(mode="img2img", prompt="cat", seed=3, steps=6, strength=1.0, image=upload, mask=mask)
    made = grid(engine, base, ("mask_blur", "0, 8"), ("mask_fill", "noise, flat"))
    _, parts = done(engine, Compare(made))
    assert len({Image.open(part.picture.path).tobytes() for part in parts}) == len(parts) == 4


def test_a_cell_of_img2img_is_the_picture_of_its_request_alone(engine, tmp_path):
    upload = tmp_path / "upload.png"
    Image.radial_gradient("L").convert("RGB").save(upload)
    base = Request(mode="img2img", prompt="cat", seed=3, steps=6, image=upload)
    made = grid(engine, base, ("strength", "0.3, 0.9"))
    # The upload may go once the grid is planned.
    kept = upload.rename(tmp_path / "kept.png")
    _, parts = done(engine, Compare(made))
    for part, strength in zip(parts, (0.3, 0.9), strict=True):
        alone = drawn(engine, mode="img2img", prompt="cat", seed=3, steps=6, image=kept, strength=strength)
        assert same_pixels(alone, part.picture.path)
    info, _ = done(engine, Compare(grid(engine, base.model_copy(update={"image": kept}), ("strength", "0.3, 0.9"))))
    assert info["reused"] == 2


def test_what_a_sampler_lacks_is_an_empty_cell_with_the_reason(engine):
    made = grid(engine, BASE, ("sampler", ["DDIM", "Heun"]), ("option:eta", "0, 1"))
    assert made.possible == (made.cells[0], made.cells[2])
    for cell in (made.cells[1], made.cells[3]):
        assert isinstance(cell, ImpossibleCell) and "Sampler Heun has no option 'eta'" in cell.reason
    info, parts = done(engine, Compare(made))
    assert [part.index for part in parts] == [0, 2] and info["cells"] == 2


def test_options_stay_with_the_sampler_that_they_belong_to(engine):
    stored = {"samplers": {"DDIM": {"eta": 0.5}, "Euler": {"churn": 0.25}}, "schedules": {"Karras": {"rho": 5.0}}}
    made = grid(engine, BASE, ("sampler", ["DDIM", "Euler"]), ("schedule", ["Karras", "Exponential"]), options=stored)
    got = {cell.labels: (cell.request.options, cell.request.schedule_options) for cell in made.cells}
    assert got["DDIM", "Karras"][0]["eta"] == 0.5 and got["DDIM", "Karras"][1]["rho"] == 5.0
    assert got["Euler", "Exponential"][0]["churn"] == 0.25 and "rho" not in got["Euler", "Exponential"][1]


def test_words_are_replaced_in_the_prompt_and_have_to_be_there(engine):
    made = grid(engine, BASE, ("prompt", "apple -> rocket, cat face"), ("prompt", "red -> blue"))
    assert [cell.request.prompt for cell in made.cells] == ["blue rocket", "blue cat face"]
    with pytest.raises(RequestError, match="'pear' does not occur"):
        grid(engine, BASE, ("prompt", "pear -> rocket"))


def test_one_seed_policy_rules_the_grid(engine):
    def seeds(*axes, **more):
        return [cell.request.seed for cell in grid(engine, BASE, *axes, **more).cells]

    assert seeds(("steps", "1, 2, 3")) == [7, 7, 7]
    assert seeds(("steps", "1, 2, 3"), policy="each") == [7, 8, 9]
    assert seeds(("seed", "5, 6"), ("steps", "1, 2"), policy="each") == [5, 6, 5, 6]
    random = [cell.request.seed for cell in grid(engine, Request(seed=-1, steps=2), ("steps", "1, 2")).cells]
    assert random[0] == random[1] != -1


@pytest.mark.parametrize(
    "axes, problem",
    [
        ([], "one to three axes"),
        ([("steps", "1, 2"), ("steps", "3")], "Steps is on two axes"),
        ([("strength", "0.5, 1")], "Strength needs an input picture"),
        ([("steps", "1..100"), ("seed", "1..100")], "10000 cells; allowed here are 400"),
        (
            [("steps", "5"), ("option:churn", "0.1")],
            "No cell of this grid can be made. Sampler DDIM has no option 'churn'",
        ),
    ],
)
def test_a_grid_that_cannot_be_is_refused(engine, axes, problem):
    with pytest.raises(RequestError, match=problem):
        grid(engine, BASE, *axes)


def test_a_public_page_allows_smaller_grids(registry, tmp_path):
    with laboratory(registry, tmp_path, public=True) as engine:
        with pytest.raises(RequestError, match="allowed here are 36"):
            grid(engine, BASE, ("seed", "1..37"))
        made = grid(engine, BASE, ("steps", "100, 200"))
        assert made.cells[0].request and "allowed here is 1 to 150" in made.cells[1].reason


def test_stop_keeps_what_is_there_and_the_grid_goes_on_later(registry, tmp_path, gate):
    axes = [("steps", "2, 3"), ("seed", "1, 2")]
    with laboratory(registry, tmp_path, gate) as engine:
        made = grid(engine, BASE, *axes)
        job = engine.submit_task(Compare(made))
        gate.let(2)
        gate.arrived(3)
        engine.stop(job)
        gate.let(1)
        outcome = job.wait(WAIT)
        assert isinstance(outcome, StoppedEarly) and outcome.info["made"] == 1
        first = job.snapshot().parts[0]
        assert len(engine.opened[0].calls) == 3
    gate.open()
    # Another program, the same folder.
    with laboratory(registry, tmp_path) as engine:
        info, parts = done(engine, Compare(grid(engine, BASE, *axes)))
        assert (info["made"], info["reused"]) == (3, 1) and len(engine.opened[0].calls) == 3 + 2 + 3
        assert parts[0].reused and parts[0].picture == first.picture
        info, parts = done(engine, Compare(grid(engine, BASE, *axes)))
        assert (info["made"], info["reused"], info["calls"]) == (0, 4, 0)


def test_what_is_gone_or_is_another_picture_now_is_made_again(engine):
    made = grid(engine, BASE, ("seed", "1, 2, 3"))
    _, parts = done(engine, Compare(made))
    paths = [part.picture.path for part in parts]
    paths[0].unlink()
    paths[1].write_bytes(paths[2].read_bytes())
    index = engine.settings.outputs / "lab" / "cells.jsonl"
    index.write_text("not json\n{}\n" + index.read_text() + '{"key": 1}\n')
    info, _ = done(engine, Compare(made))
    assert (info["made"], info["reused"]) == (2, 1)


def test_the_key_of_a_picture_is_the_key_of_its_request(engine):
    made = grid(engine, BASE, ("option:eta", "0.5"))
    _, parts = done(engine, Compare(made))
    record = read_picture(parts[0].picture.path).record.data
    identity = engine.identity_of(Request(model="toy"))
    key = key_of_request(made.cells[0].request, made.cells[0].resolved.origins, identity)
    assert key_of_record(read_record(record)) == key
    for change in (dict(prompt="x"), dict(seed=8), dict(steps=5), dict(guidance=1.0)):
        other = made.cells[0].request.model_copy(update=change)
        assert key_of_request(other, made.cells[0].resolved.origins, identity) != key
    for change in (dict(weights="others"), dict(patches=(Patch("x", "0011223344", 0.5, 0.5),)), dict(device="cuda:0")):
        assert key_of_request(made.cells[0].request, made.cells[0].resolved.origins, replace(identity, **change)) != key
    assert key_of_record(read_record(record | {"model": record["model"] | {"vae": "beside it"}})) != key
    batch = json.loads(json.dumps(record)) | {"batch": [7, 8]}
    assert key_of_record(read_record(batch)) is None and key_of_record(read_record({})) is None


def test_the_cost_is_told_before_it_starts(engine):
    made = grid(engine, BASE, ("sampler", ["DDIM", "Heun"]), ("steps", "4, 8"))
    cost = cost_of(made, engine)
    assert (cost.cells, cost.there, cost.calls, cost.uncounted) == (4, 0, 4 + 7 + 8 + 15, 0)
    assert cost.seconds is None
    done(engine, Compare(grid(engine, BASE, ("steps", "4"))))
    cost = cost_of(made, engine)
    assert (cost.cells, cost.there, cost.calls) == (3, 1, 7 + 8 + 15)
    rate = CellCache(engine.settings.outputs).seconds_a_call(made.cells[0].request)
    assert cost.seconds == pytest.approx(30 * rate)
    adaptive = grid(engine, BASE, ("sampler", ["Flow", "DDIM"]))
    assert (cost_of(adaptive, engine).uncounted, cost_of(adaptive, engine).seconds) == (1, None)


def test_a_sampler_that_fails_costs_only_its_own_cells(registry, tmp_path):
    @sampler("Broken")
    def broken(denoise, x, sigmas, noise):
        yield Step(denoise(x, sigmas[0]), sigmas[1], x)
        raise RuntimeError("half way")

    known = Registry({**registry.samplers, "Broken": Entry(broken, "test", "1")}, registry.schedules, registry.broken)
    with laboratory(known, tmp_path) as engine:
        info, parts = done(engine, Compare(grid(engine, BASE, ("sampler", ["Broken", "DDIM"]))))
    assert isinstance(parts[0], CellFailed) and "Sampler Broken failed" in parts[0].reason
    assert isinstance(parts[1], CellMade)
    assert info["made"] == 1


def test_progress_counts_cells_and_calls_of_the_whole_grid(registry, tmp_path, gate):
    with laboratory(registry, tmp_path, gate) as engine:
        job = engine.submit_task(Compare(grid(engine, BASE, ("steps", "2, 4"))))
        gate.let(4)
        gate.arrived(5)
        progress = job.snapshot().progress
        assert progress.text == "cell 2 of 2 (4), step 2 of 4" and (progress.calls, progress.total_calls) == (4, 6)
        gate.open()
        assert job.wait(WAIT)


def test_a_grid_is_kept_as_one_labelled_png_and_a_zip_of_the_pictures(engine, tmp_path):
    made = grid(engine, BASE, ("sampler", ["DDIM", "Heun"]), ("option:eta", "0, 1"), ("seed", "1, 2"))
    _, parts = done(engine, Compare(made))
    pictures = {part.index: part.picture for part in parts}
    sheet = encode_sheet(made, pictures)
    with Image.open(BytesIO(sheet)) as page:
        carried = json.loads(page.info[KEYWORD])
        assert page.width > 2 * 128 and page.height > 4 * 128
        # A picture's own pixels are on the sheet, doubled.
        with Image.open(parts[0].picture.path) as first:
            doubled = first.resize((128, 128), Image.Resampling.NEAREST).tobytes()
        places = [(x, y) for x in range(20, 160) for y in range(20, 120)]
        assert any(page.crop((x, y, x + 128, y + 128)).tobytes() == doubled for x, y in places)
    assert [axis["values"] for axis in carried["axes"]] == [["DDIM", "Heun"], ["0", "1"], ["1", "2"]]
    assert "no option 'eta'" in carried["cells"][1]["reason"] and carried["cells"][0]["nfe"] == 4
    write_zip(tmp_path / "grid.zip", made, pictures, sheet)
    with zipfile.ZipFile(tmp_path / "grid.zip") as bundle:
        names = bundle.namelist()
        assert names[:3] == ["grid.png", "grid.json", "001 DDIM, 0, 1.png"] and len(names) == 2 + 4
        assert bundle.read(names[2]) == parts[0].picture.path.read_bytes()


def test_file_names_are_safe(engine):
    made = grid(engine, BASE, ("prompt", "apple -> ../../etc/passwd, a:b*c?, ..."))
    assert [file_name(cell) for cell in made.cells] == ["_.._etc_passwd", "a_b_c_", "cell"]


# --- what the browser keeps


def test_kept_axes_come_back_and_make_the_same(registry):
    kept = {
        "axes": [["schedule", ["Karras", "Exponential"], ""], ["option:eta", [], "0, 1"], ["", [], ""]],
        "policy": "each",
    }
    axes, policy = recall_axes(kept, registry)
    given = [value for axis in axes for value in (axis.kind, list(axis.picked), axis.typed)] + [policy]
    read, same = read_axes(given, registry)
    assert [(axis.kind, len(axis.values)) for axis in read] == [("schedule", 2), ("option:eta", 2)] and same == "each"
    assert recall_axes({"axes": [given[at : at + 3] for at in (0, 3, 6)], "policy": policy}, registry) == (axes, policy)


@pytest.mark.parametrize(
    "saved",
    [
        None,
        [],
        "axes",
        {},
        {"axes": None, "policy": None},
        {"axes": [], "policy": 5},
        {"axes": [[], [], []]},
        {"axes": [1, None, "x"]},
        {"axes": [["gone", [], ""], ["steps", [], None], [["sampler"], {}, []]], "policy": ["same"]},
        {"axes": [[5, 5, 5]] * 3},
        {"axes": [["sampler"]] * 3},
        {"axes": [["steps", [], "1"]] * 4},
    ],
)
def test_what_a_browser_kept_wrong_is_the_first_of_its_place(registry, saved):
    assert recall_axes(saved, registry) == recall_axes(None, registry)


def test_names_that_are_gone_fall_out_of_a_kept_axis(registry):
    kept = {
        "axes": [["sampler", ["Euler", "Gone", 5, "DDIM"], ""], ["sampler", "Euler", ""], ["steps", [], "5" * 20_000]]
    }
    axes, policy = recall_axes(kept, registry)
    assert [list(axis.picked) for axis in axes] == [["Euler", "DDIM"], [], []] and policy == "same"
    assert len(axes[2].typed) == 10_000
