"""What computes a network: OpenVINO beside torch on the same inputs, the choice between them, and its replay."""

import copy
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT, ToyModel, toy, until
from PIL import Image
from safetensors.torch import save_file

import weights.opening
from benchmarks.random_checkpoint import checkpoint, save
from webui import command_line
from webui.core.picture_metadata import read_picture
from webui.core.record import read_record
from webui.core.request import Request
from webui.engine.backend_chooser import BackendChooser
from webui.engine.engine import Engine
from webui.engine.errors import free_memory
from webui.engine.events import Progress
from webui.engine.jobs import DrawJob, Finished
from webui.engine.replay_verdict import changes
from webui.engine.run_environment import origin_of
from webui.environment import StartError
from webui.replay_command import replay_file, replay_files
from webui.settings import Settings, settings_without_page
from weights.backends import conversions, measurement
from weights.backends.backend import BackendError
from weights.backends.conversions import Conversions
from weights.backends.measurement import Compute, Measured, fastest, measure
from weights.backends.openvino_backend import OpenVinoBackend, openvino_version
from weights.catalog import Catalog
from weights.extra_networks import ExtraNetworks
from weights.model_info import ModelError
from weights.opening import open_model

BLUEPRINT = "rocket <lora:blueprint>"
TORCH, SINGLE, HALF = Compute("torch", "float32"), Compute("openvino", "float32"), Compute("openvino", "bfloat16")
needs_openvino = pytest.mark.skipif(not openvino_version(), reason="openvino is not installed")

# Runs first in a Python that finds it as sitecustomize: writes down every address that is asked for.
WATCH = """
import os, sys
def hear(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        with open(os.environ["HEARD"], "a") as file:
            file.write(event + repr(arguments[-1:]) + "\\n")
    if event == "import" and arguments[0].startswith("openvino_telemetry."):
        with open(os.environ["HEARD"], "a") as file:
            file.write("imports " + arguments[0] + "\\n")
sys.addaudithook(hear)
"""


@pytest.fixture(scope="module")
def cache(emoji, tmp_path_factory):
    """A cache with the conversion of the embedded model, made in a child process that is watched; see `heard`."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "sitecustomize.py").write_text(WATCH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("HEARD", str(folder / "heard"))
        ended = []
        running = Conversions(folder).begin(emoji.info, emoji.identity, lambda: ended.append(True), 1)
        running.wait(300)
    assert (running.problem, running.progress, ended) == ("", "2 of 2", [True])
    return folder


@pytest.fixture(scope="module")
def openvino(cache, emoji):
    """The embedded model computed by OpenVINO."""
    return emoji.computed_by(OpenVinoBackend(Conversions(cache).find(emoji.identity)))


@pytest.fixture
def engine(registry, emoji, cache, tmp_path):
    """engine(**settings): one on the embedded model and the cache; it is closed after."""
    engines = []

    def make(**fields):
        settings = dict(root=ROOT, outputs=tmp_path / "outputs", weights=ROOT / "weights", device="cpu", model="emoji")
        engines.append(Engine(registry, Settings(**settings | dict(cache=cache) | fields), lambda found, device: emoji))
        engines[-1].start()
        return engines[-1]

    yield make
    for each in engines:
        each.close()


@pytest.fixture(scope="module")
def faster(registry, emoji, cache, tmp_path_factory):
    """An engine that draws by OpenVINO from the start."""
    outputs = tmp_path_factory.mktemp("faster")
    settings = Settings(ROOT, outputs=outputs, weights=ROOT / "weights", device="cpu", model="emoji", cache=cache)
    settings = replace(settings, backend="openvino", dtype="float32", background=False)
    engine = Engine(registry, settings, lambda found, device: emoji)
    engine.start()
    yield engine
    engine.close()


def draw(engine, **fields):
    fields = dict(prompt="red apple", sampler="DDIM", steps=2, seed=5, width=64, height=64) | fields
    job = engine.submit(Request(**fields), previews=False)
    assert isinstance(job.wait(300), Finished), job.outcome
    return job.pictures[-1].path, job.snapshot().info


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), float)


def record(path):
    return read_picture(path).record.data["model"]


@needs_openvino
def test_a_conversion_asks_nobody_and_is_found_again(cache, emoji):
    assert not (cache / "heard").exists()
    path = Conversions(cache).find(emoji.identity)
    assert sorted(file.suffix for file in path.iterdir()) == [".bin", ".bin", ".xml", ".xml"]
    assert Conversions(cache).find(replace(emoji.identity, weights="other")) is None


@needs_openvino
def test_the_watch_hears_what_it_should(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr("sys.addaudithook", heard.append)
    monkeypatch.setenv("HEARD", str(tmp_path / "heard"))
    exec(WATCH)
    heard[0]("socket.connect", (None, ("example.org", 80)))
    heard[0]("import", ("openvino_telemetry.main",))
    assert len((tmp_path / "heard").read_text().splitlines()) == 2


# One conversion for all of them: images, sides of the latents, odd ones too, and words.
@needs_openvino
@pytest.mark.parametrize(
    "images, height, width, prompt", [(1, 16, 16, ""), (3, 13, 18, "red apple"), (2, 8, 24, "a " * 40)]
)
def test_every_shape_is_torchs_to_the_last_digits(emoji, openvino, images, height, width, prompt):
    latents = torch.randn(images, emoji.info.channels, height, width, generator=torch.Generator().manual_seed(0))
    condition = emoji.encode_prompt(prompt).repeat(images)
    here, there = (model.network(latents, 300.25, condition) for model in (openvino, emoji))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-5 * float(there.abs().max()))
    assert torch.equal(here, openvino.network(latents, 300.25, condition))
    one, other = (np.asarray(model.decode(latents[:1])[0], int) for model in (openvino, emoji))
    assert np.abs(one - other).max() <= 1


@needs_openvino
def test_the_threads_are_torchs(openvino, emoji):
    inputs = emoji.network.inputs(torch.zeros(1, emoji.info.channels, 16, 16), 5.0, emoji.encode_prompt(""))
    first = openvino.network.step(inputs)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        openvino.network.step(inputs)
        compiled = openvino.network._backend._requests["unet"][1].get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == before + 1
    finally:
        torch.set_num_threads(before)
    assert torch.equal(openvino.network.step(inputs), first)


@needs_openvino
def test_the_fastest_is_measured_once_told_recorded_and_replayed(engine, emoji, cache, monkeypatch):
    """The first picture is torch's; the next ones are OpenVINO's, which this test makes the faster one."""
    asked = []

    def measured(model, candidates, should_stop):
        asked.append(list(candidates))
        assert model is emoji and next(iter(candidates)) == TORCH
        return {TORCH: Measured(1.0, 0.0), SINGLE: Measured(0.5, 1e-6)}

    monkeypatch.setattr("webui.engine.backend_chooser.measure", measured)
    one = engine(backend="auto")
    first, _ = draw(one)
    until(lambda: one.status == "emoji on cpu, openvino float32, ready")
    second, info = draw(one)
    assert "backend" not in record(first) and record(second)["backend"] == "openvino" and "notes" not in info
    assert np.sqrt(np.square(pixels(first) - pixels(second)).mean()) <= 2
    # Each is made again as it was made, whatever is faster now.
    assert [str(replay_file(one, path)) for path in (first, second)] == ["bit-equal"] * 2
    # What was measured holds for the next start.
    other = engine(backend="auto")
    other.warm_up()
    until(lambda: other.status == "emoji on cpu, openvino float32, ready")
    assert asked == [[TORCH, SINGLE]] or asked == [[TORCH, SINGLE, HALF]]
    (kept,) = json.loads((cache / "backends.json").read_text()).values()
    assert kept["model"] == "emoji" and set(kept["measured"]) == {"torch float32", "openvino float32"}


@needs_openvino
def test_samplers_of_every_kind_draw_the_same_through_openvino(engine, faster):
    theirs = engine()
    for sampler in ("DPM++ 2M SDE", "UniPC"):
        fields = dict(sampler=sampler, steps=2)
        there, here = draw(theirs, **fields)[0], draw(faster, **fields)[0]
        assert (record(here)["backend"], record(there).get("backend")) == ("openvino", None)
        assert np.sqrt(np.square(pixels(here) - pixels(there)).mean()) <= 2


@needs_openvino
def test_an_engine_that_does_not_ask_for_openvino_makes_its_picture_again(faster, capsys):
    path, _ = draw(faster, sampler="DDPM")
    assert replay_files(replace(faster.settings, backend="torch"), [path]) == 0, capsys.readouterr().out


@needs_openvino
def test_a_lora_is_drawn_by_torch_and_says_so(faster, emoji, tmp_path, monkeypatch):
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    width = emoji.network.unet.get_submodule(layer.removeprefix("unet.")).weight.shape[0]
    (tmp_path / "loras").mkdir()
    tensors = {f"{layer}.lora_A.weight": torch.ones(1, width), f"{layer}.lora_B.weight": torch.ones(width, 1)}
    save_file(tensors, tmp_path / "loras" / "small.safetensors")
    monkeypatch.setattr(emoji, "extra", ExtraNetworks(tmp_path))
    monkeypatch.setattr(emoji, "_patched", None)
    monkeypatch.setattr(faster._available, "extra", emoji.extra)
    path, info = draw(faster, prompt="red apple <lora:small:0.5>")
    assert "backend" not in record(path) and record(path)["patches"]
    assert info["notes"] == ["A LoRA acts on torch's layers, so torch drew this; without one the faster backend does."]
    assert record(draw(faster)[0])["backend"] == "openvino"


def test_what_a_backend_cannot_compute_torch_draws(engine, emoji):
    class Refuses:
        name, dtype, decode = "openvino", "float32", None

        def step(self, inputs):
            raise BackendError("openvino cannot compute inputs of 2x4x16x16")

    one = engine()
    draw(one)
    one.worker._holder._backends._fastest = emoji.computed_by(Refuses())
    path, info = draw(one)
    assert "backend" not in record(path)
    assert info["notes"] == ["Openvino cannot compute inputs of 2x4x16x16. Torch drew this."]


def test_a_failed_conversion_is_told_once_and_torch_stays(engine, emoji, monkeypatch, tmp_path, caplog):
    class Failed:
        running, problem, progress = False, "RuntimeError: unknown operation", ""

        def close(self):
            pass

    monkeypatch.setattr(BackendChooser, "_convert", lambda self, base: Failed())
    monkeypatch.setattr("webui.engine.backend_chooser.openvino_version", lambda: "1.0")
    monkeypatch.setattr("webui.engine.backend_chooser._openvino_dtypes", lambda: ("float32",))
    one = engine(backend="auto", cache=tmp_path / "other")
    one.warm_up()
    told = "emoji on cpu, ready; openvino does not work here: ModelError: RuntimeError: unknown operation"
    until(lambda: one.status == told)
    assert "backend" not in record(draw(one)[0]) and one.status == told
    assert caplog.text.count("unknown operation") == 1


def test_without_openvino_torch_computes(engine, monkeypatch):
    monkeypatch.setattr("webui.engine.backend_chooser.openvino_version", lambda: "")
    for backend, note in (("auto", ""), ("openvino", "; openvino is not installed")):
        one = engine(backend=backend)
        assert "backend" not in record(draw(one)[0])
        assert one.status == f"emoji on cpu, ready{note}"


def chosen(known, **settings):
    settings = Settings(root=ROOT, **settings)
    chooser = BackendChooser(settings, lambda: None)
    choice = chooser._choose(known)
    chooser._offer(known, choice)
    return choice, chooser.note


def test_the_choice():
    """float32 whenever it is faster, bfloat16 only where nobody can tell; what is named is taken."""
    known = {TORCH: Measured(3.0, 0.0), SINGLE: Measured(2.0, 1e-5), HALF: Measured(1.0, 0.02, 3.1)}
    assert chosen(known, backend="auto") == (SINGLE, "; --dtype bfloat16 is 2.0 times as fast, 3.1/255 off")
    assert chosen(known, backend="auto", dtype="bfloat16") == (HALF, "")
    assert chosen(known | {HALF: Measured(1.0, 0.02, 1.9)}, backend="auto") == (HALF, "")
    assert chosen(known | {HALF: Measured(1.0, 0.02, 1.9)}, backend="auto", dtype="float32") == (SINGLE, "")
    assert chosen(known | {SINGLE: Measured(2.0, 2e-4)}, backend="auto")[0] == TORCH
    assert fastest({TORCH: Measured(1.0, 0.0), SINGLE: Measured(1.1, 0.0)}) == TORCH


def test_measuring_compares_calls_and_pictures_and_ends_when_somebody_waits(emoji, monkeypatch):
    class Off:
        """Torch's own network, a little off."""

        name, dtype, decode = "openvino", "bfloat16", None

        def __init__(self, by):
            self.by = by

        def step(self, inputs):
            return emoji.network.step(inputs) * (1 + self.by)

    monkeypatch.setattr(measurement, "ROUNDS", 1)
    monkeypatch.setattr(measurement, "STEPS", 2)
    # Torch's call takes 3, the others' 1.
    times = iter([0, 0, 0, 0, 3, 3, 4, 4, 5])
    stopped = SimpleNamespace(monotonic=lambda: 0, perf_counter=lambda: next(times, 0))
    monkeypatch.setattr(measurement, "time", stopped)
    near, far = Compute("a", "bfloat16"), Compute("b", "bfloat16")
    ways = {TORCH: emoji, near: emoji.computed_by(Off(1e-6)), far: emoji.computed_by(Off(0.5))}
    measured = measure(emoji, ways, lambda: False)
    assert measured[near].apart is None and measured[near].same_pictures
    assert measured[far].error == pytest.approx(0.5, abs=0.01)
    assert measured[far].apart > 2 and not measured[far].same_pictures
    assert (measured[TORCH].seconds, measured[near].seconds) == (3, 1)
    assert measurement.pictures_apart(emoji, emoji, lambda: False) == 0
    asked = []
    with pytest.raises(measurement.Stopped):
        measure(emoji, ways, lambda: bool(asked) or asked.append(True))


@pytest.mark.parametrize("dtype, asked", [("bfloat16", "bfloat16"), ("float32", "auto")])
def test_a_number_format_that_is_named_is_recorded_and_restored(registry, emoji, tmp_path, dtype, asked):
    opened = []

    def opening(found, device, dtype="auto"):
        opened.append(dtype)
        return open_model(found, device, dtype) if dtype == "bfloat16" else emoji

    settings = Settings(root=ROOT, outputs=tmp_path, weights=ROOT / "weights", device="cpu", model="emoji", dtype=dtype)
    engine = Engine(registry, settings, opening)
    engine.start()
    try:
        path, _ = draw(engine, steps=1)
        assert record(path)["dtype"] == dtype and opened == [asked]
        assert str(replay_file(engine, path)) == "bit-equal" and opened == [asked]
        assert engine.status.startswith(
            "emoji on cpu, torch bfloat16, ready" if dtype == "bfloat16" else "emoji on cpu, ready"
        )
        if dtype == "bfloat16":
            # A program that computes in float32 opens the model anew for it.
            engine.worker._holder._settings = replace(settings, dtype="auto")
            engine.worker._holder._backends._settings = replace(settings, dtype="auto")
            plain, _ = draw(engine, steps=1)
            assert record(plain)["dtype"] == "float32"
            assert 0 < np.abs(pixels(path) - pixels(plain)).mean() < 8
            assert str(replay_file(engine, path)) == "bit-equal" and opened == ["bfloat16", "auto", "bfloat16"]
    finally:
        engine.close()


@needs_openvino
@pytest.mark.parametrize(
    "formats, said",
    [
        (("float32",), "; this processor has no instructions for bfloat16, and float32 is several times as fast"),
        (("float32", "bfloat16"), ""),
    ],
)
def test_half_precision_that_a_processor_lacks_is_told(emoji, tmp_path, monkeypatch, caplog, formats, said):
    monkeypatch.setattr("webui.engine.backend_chooser.openvino_dtypes", lambda: formats)
    chooser = BackendChooser(Settings(tmp_path, backend="torch", dtype="bfloat16"), lambda: None)
    half = copy.copy(emoji)
    half.identity = replace(emoji.identity, dtype="bfloat16")
    for model in (emoji, half):
        chooser.begin(model)
    assert chooser.note == said
    assert [each.getMessage() for each in caplog.records] == ([f"emoji{said}"] if said else [])
    chooser.begin(emoji)
    assert chooser.note == ""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_weights_that_were_let_go_are_read_again(emoji, kind, tmp_path, monkeypatch):
    """While OpenVINO draws, torch's copy of large weights is not in memory; whoever needs it finds it as it was."""
    if kind == "file":
        info = Catalog().find_models(save(tmp_path / "mini.safetensors", checkpoint(1)).parent)["mini"]
    else:
        info = Catalog().find_models(ROOT / "weights")["emoji"]
    monkeypatch.setattr(weights.opening, "WIDE", 0)
    model = open_model(info, "cpu")
    x = torch.randn(1, info.channels, 8, 8, generator=torch.Generator().manual_seed(0))
    before = model.denoiser("red apple", "", 5.0)(x, 3.0)
    model.weights.release()
    assert not model.weights.held and model.network.unet.conv_in.weight.is_meta
    assert torch.equal(model.denoiser("red apple", "", 5.0)(x, 3.0), before) and model.weights.held
    model.weights.release()
    assert torch.equal(model.denoiser_of_each(["red apple"], 5.0)(x, 3.0), before)
    assert model.network.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    if kind == "file":
        model.weights.release()
        info.path.touch()
        with pytest.raises(ModelError, match="the files of model mini have changed; open it anew"):
            model.denoiser("red apple")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system decides")
def test_memory_of_weights_that_were_let_go_is_given_back():
    model, process = open_model(Catalog().find_models(ROOT / "weights")["emoji"], "cpu"), psutil.Process()
    before = process.memory_info().rss
    model.weights.release()
    free_memory()
    assert before - process.memory_info().rss > model.weights.size / 2


@needs_openvino
def test_large_weights_are_not_kept_twice(engine, registry, cache, tmp_path, monkeypatch):
    plain = engine()
    by_torch, with_lora = draw(plain)[0], draw(plain, prompt=BLUEPRINT)[0]
    monkeypatch.setattr("webui.engine.backend_chooser.LARGE", 0)
    own = open_model(Catalog().find_models(ROOT / "weights")["emoji"], "cpu")
    settings = Settings(ROOT, outputs=tmp_path, weights=ROOT / "weights", device="cpu", model="emoji", cache=cache)
    one = Engine(registry, replace(settings, backend="openvino", dtype="float32"), lambda found, device: own)
    one.start()
    try:
        draw(one)
        until(lambda: not own.weights.held)
        first = draw(one)[0]
        assert record(first)["backend"] == "openvino" and not own.weights.held
        # Drawn by torch, whose weights come back for that and go again.
        told, tell = [], DrawJob.tell
        monkeypatch.setattr(DrawJob, "tell", lambda job, event: (told.append(event), tell(job, event))[1])
        for path in (by_torch, with_lora):
            assert str(replay_file(one, path)) == "bit-equal"
            until(lambda: not own.weights.held)
        assert (pixels(draw(one)[0]) == pixels(first)).all()
        texts = [event.text for event in told if isinstance(event, Progress)]
        assert texts.count("reading the weights of emoji again, for torch") == 2
    finally:
        one.close()


def test_where_memory_is_short_nothing_is_converted(engine, monkeypatch, tmp_path):
    monkeypatch.setattr("webui.engine.backend_chooser.openvino_version", lambda: "1.0")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1 << 20))
    one = engine(backend="auto", cache=tmp_path / "other")
    draw(one)
    assert one.status == "emoji on cpu, ready; there is too little memory to convert it for openvino"


def test_half_precision_on_a_cpu_is_refused_in_words(emoji):
    with pytest.raises(ModelError, match="dtype float16 needs a GPU; on a CPU use auto, float32 or bfloat16"):
        open_model(emoji.info, "cpu", "float16")


def test_cuda_graphs_are_left_to_cuda(engine):
    one = engine(backend="cuda-graph")
    path, _ = draw(one)
    assert "backend" not in record(path)
    assert "CUDA graphs need an NVIDIA GPU, and this model computes on cpu" in one.status


def test_torch_compile_is_recorded_restored_and_left_out_where_it_fails(engine, emoji, monkeypatch, caplog):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda module: calls.append(1) or copy.copy(module))
    compiled, _ = draw(engine(backend="compile"))
    assert record(compiled)["compiled"] == "torch.compile" and calls
    calls.clear()
    plain = engine()
    assert str(replay_file(plain, compiled)) == "bit-equal" and calls == [1]
    assert "compiled" not in record(draw(plain)[0])

    def refuse(module):
        raise RuntimeError("no compiler here\nlong trace")

    monkeypatch.setattr(torch, "compile", refuse)
    one = engine(backend="compile")
    path, _ = draw(one)
    assert "compiled" not in record(path) and "no compiler here" in one.status
    assert "no compiler here" in caplog.text and "long trace" not in caplog.text
    assert str(replay_file(engine(), compiled)) == "bit-equal, although the backend is torch and was compile"


def test_what_says_nothing_was_torchs():
    old = read_record({"model": {"dtype": "float32"}})
    new = ToyModel(toy()).identity
    assert changes(old, read_record({"model": origin_of("toy", new)})) == []
    said = changes(old, read_record({"model": origin_of("toy", replace(new, backend="openvino"))}))
    assert said == ["the backend is openvino and was torch"]


def test_conversions_are_bounded_and_what_was_used_longest_ago_goes(emoji, tmp_path, monkeypatch):
    monkeypatch.setattr(conversions, "Conversion", lambda info, path, *rest: path)
    kept = Conversions(tmp_path, limit=2000)
    paths = []
    for age, name in enumerate(["newest", "middle", "oldest"]):
        path = kept.path_of(replace(emoji.identity, weights=name))
        path.mkdir(parents=True)
        for part in ("unet", "vae_decoder"):
            (path / f"{part}.bin").write_bytes(bytes(500))
        os.utime(path, (1e9 - age, 1e9 - age))
        paths.append(path)
    left = paths[0].parent / "x.7.part"
    left.mkdir()
    os.utime(left, (1e9, 1e9))
    assert kept.begin(emoji.info, emoji.identity, lambda: None, 1) == kept.path_of(emoji.identity)
    assert [path.exists() for path in [*paths, left]] == [True, True, False, False]
    assert kept.find(replace(emoji.identity, weights="middle")) and paths[1].stat().st_mtime > 1e9


def test_flags(tmp_path):
    def settings(*flags):
        return settings_without_page(command_line.parse([*flags])[0], tmp_path)

    plain = settings()
    assert (plain.backend, plain.dtype, plain.cache) == ("auto", "auto", tmp_path / "cache")
    assert settings("--compile").backend == "compile" and settings("--no-cache").cache is None
    assert settings("--backend", "openvino", "--dtype", "bfloat16").dtype == "bfloat16"
    with pytest.raises(StartError, match="--compile is --backend compile, and --backend torch is given as well"):
        settings("--compile", "--backend", "torch")
    assert Settings(root=Path()).backend == "torch"
