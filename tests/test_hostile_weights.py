"""Files in weights/ that are broken, something else, or malicious: an error names each, none runs code."""

import io
import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import ToyModel

from benchmarks.random_checkpoint import Width, checkpoint, save, shapes
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.jobs import Failed, Finished
from webui.settings import Settings
from weights.catalog import Catalog
from weights.model_info import ModelError
from weights.opening import check_model, open_model

WAIT = 60
EMOJI = Path(__file__).parents[1] / "weights" / "emoji"
NO_NETWORK = "is not a supported checkpoint: its tensor shapes do not form a valid UNet, VAE or text encoder"


class Harm:
    """Unpickled, it would write a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


class Loads:
    """Unpickled, it would evaluate code."""

    def __reduce__(self):
        return eval, ("__import__('os').abort()",)


# A dict whose key is (t, t) of (t, t) and so on. Made by hand, for a dict that has it cannot be made, either.
KEY = b"\x80\x02}q\xc8)" + b"".join(b"q%ch%ch%c\x86" % (n, n, n) for n in range(100)) + b"q\x64h\xc8h\x64Ns."
# Calls [l, l] of [l, l] and so on, whose words without end the unpickler would put into its error.
CALLS = b"\x80\x02]" + b"".join(b"q%c](h%ch%ce" % (n, n, n) for n in range(100)) + b")R."
OUT = "model.diffusion_model.out.2.weight"
LAYERS = "cond_stage_model.transformer.text_model.encoder.layers"


@pytest.fixture(scope="module")
def weights():
    return checkpoint(1, Width(32, 32, 64, 1, tokens=64), torch.float16)


@pytest.fixture(scope="module")
def good(weights, tmp_path_factory):
    return save(tmp_path_factory.mktemp("good") / "good.safetensors", weights).read_bytes()


def archive(entries, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, data in entries.items():
            made.writestr(name, data)
    return buffer.getvalue()


def pickled(value, **more):
    buffer = io.BytesIO()
    torch.save(value, buffer, **more)
    return buffer.getvalue()


def header(content, data=b""):
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


def zeros(names):
    return {name: torch.zeros(1) for name in names}


def without(weights, start):
    return {name: tensor for name, tensor in weights.items() if not name.startswith(start)}


def only(weights, start):
    return {name: tensor for name, tensor in weights.items() if name.startswith(start)}


def claims_more(data):
    """A stored zip whose list of contents says that an entry is a thousand times as long."""
    at = data.index(b"PK\x01\x02")
    return data[:at] + data[at:].replace(data[at + 20 : at + 28], struct.pack("<II", 10**9, 10**9), 1)


def reshaped(weights):
    return weights | {"model.diffusion_model.out.2.weight": torch.zeros(4, 32, 1, 1)}


# The file's name, its content from (weights, a good file's bytes, a folder), and what its error has to say.
FILES = {
    "a shell command": (
        "a.ckpt",
        lambda w, good, folder: pickled({"state_dict": w, "x": Harm(folder / "harm")}),
        "asks for (posix|nt).system, which may run code.*nothing was run",
    ),
    "an evaluated text": ("b.ckpt", lambda w, good, folder: pickled(Loads()), "asks for .*eval, which may run code"),
    "a bare hostile pickle": (
        "c.ckpt",
        lambda w, good, folder: pickle.dumps(Harm(folder / "harm")),
        "a pickle in the format of PyTorch before 1.6",
    ),
    "an old PyTorch file": (
        "d.ckpt",
        lambda w, good, folder: pickled(w, _use_new_zipfile_serialization=False),
        "before 1.6, .* save it anew as .safetensors",
    ),
    "a truncated safetensors file": ("e.safetensors", lambda w, good, folder: good[: len(good) // 2], "cut short"),
    "a truncated header": ("f.safetensors", lambda w, good, folder: good[:300], "cut short"),
    "a truncated pickle": ("g.ckpt", lambda w, good, folder: pickled(w)[:-1000], "cut short or damaged"),
    "an empty file": ("h.safetensors", lambda w, good, folder: b"", "is empty"),
    "a LoRA": (
        "i.safetensors",
        lambda w, good, folder: tensors(zeros(["lora_unet_down_blocks_0.lora_up.weight", "lora_te_x.alpha"])),
        "looks like a LoRA",
    ),
    "a VAE alone": (
        "j.safetensors",
        lambda w, good, folder: tensors(
            {n.removeprefix("first_stage_model."): t for n, t in only(w, "first_stage_model.").items()}
        ),
        "looks like a VAE alone.*NAME.vae.safetensors",
    ),
    "a web page": (
        "k.ckpt",
        lambda w, good, folder: b"<!DOCTYPE html>\n<html><title>Sign in</title></html>",
        "is a web page",
    ),
    "a Git LFS pointer": (
        "l.safetensors",
        lambda w, good, folder: b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 4\n",
        "Git LFS pointer",
    ),
    "a packed zip bomb": (
        "m.ckpt",
        lambda w, good, folder: archive(
            {"archive/data.pkl": b"\x80\x02}q\x00." + b"\0" * 10_000_000}, zipfile.ZIP_DEFLATED
        ),
        "may be a zip bomb",
    ),
    "a zip with impossible sizes": (
        "n.ckpt",
        lambda w, good, folder: claims_more(pickled({"a": torch.zeros(4)})),
        "may be a zip bomb|cut short or damaged",
    ),
    "an ordinary zip": (
        "o.ckpt",
        lambda w, good, folder: archive({"model.safetensors": good[:100]}),
        "ordinary zip archive; unpack it",
    ),
    "a pickle named .safetensors": (
        "p.safetensors",
        lambda w, good, folder: pickled(w),
        "a PyTorch pickle under the name of a safetensors file",
    ),
    "a picture": ("q.ckpt", lambda w, good, folder: b"\x89PNG\r\n\x1a\n" + b"0" * 100, "is a picture"),
    "a GGUF file": ("r.safetensors", lambda w, good, folder: b"GGUF\x03\0\0\0", "is a GGUF file"),
    "noise": (
        "s.safetensors",
        lambda w, good, folder: bytes(range(255, 0, -1)) * 9,
        "damaged: it does not begin as a safetensors file",
    ),
    "text": ("t.ckpt", lambda w, good, folder: b"hello " * 99, "neither a safetensors file nor a PyTorch checkpoint"),
    "a header of another kind": (
        "u.safetensors",
        lambda w, good, folder: header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"0000"),
        "damaged, its safetensors header cannot be read",
    ),
    "offsets beyond the end": (
        "v.safetensors",
        lambda w, good, folder: header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        "cut short",
    ),
    "a checkpoint that edits pictures": (
        "w.safetensors",
        lambda w, good, folder: tensors(
            {n: torch.zeros(s) for n, s in shapes(1, Width(32, 32, 64, 1, tokens=64, taken=8)).items()}
        ),
        "is a network that edits pictures .InstructPix2Pix. .8 input channels",
    ),
    "an unCLIP checkpoint": (
        "unclip.safetensors",
        lambda w, good, folder: tensors(w | zeros(["model.diffusion_model.label_emb.0.0.weight"])),
        "is a network with a class input, such as unCLIP, which is not supported",
    ),
    "a checkpoint in scaled 8-bit numbers": (
        "fp8.safetensors",
        lambda w, good, folder: tensors(w | zeros(["model.diffusion_model.scaled_fp8"])),
        "is a checkpoint in scaled 8-bit numbers",
    ),
    "a part of Stable Diffusion XL": (
        "x.safetensors",
        lambda w, good, folder: tensors(
            only(w, "model.") | zeros(["conditioner.embedders.0.transformer.text_model.final_layer_norm.bias"])
        ),
        "looks like a part of a Stable Diffusion XL checkpoint",
    ),
    "Stable Diffusion 3": (
        "y.safetensors",
        lambda w, good, folder: tensors(zeros(["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"])),
        "looks like a Stable Diffusion 3 checkpoint",
    ),
    "a Flux model": (
        "z.safetensors",
        lambda w, good, folder: tensors(zeros(["double_blocks.0.img_attn.qkv.weight"])),
        "looks like a Flux checkpoint",
    ),
    "a ControlNet": (
        "aa.safetensors",
        lambda w, good, folder: tensors(zeros(["control_model.input_blocks.0.0.weight"])),
        "looks like a ControlNet",
    ),
    "a textual inversion": (
        "ab.ckpt",
        lambda w, good, folder: pickled({"string_to_param": {"*": torch.zeros(2, 768)}, "name": "x"}),
        "looks like a textual inversion",
    ),
    "a UNet of a folder": (
        "ac.safetensors",
        lambda w, good, folder: tensors(zeros(["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"])),
        "looks like the UNet of a diffusers folder",
    ),
    "a UNet alone": (
        "ad.safetensors",
        lambda w, good, folder: tensors(only(w, "model.diffusion_model.")),
        "looks like a UNet alone",
    ),
    "something else": (
        "ae.safetensors",
        lambda w, good, folder: tensors(zeros(["bert.encoder.weight"])),
        "looks like something else .its first names are bert.encoder.weight",
    ),
    "no weights": ("af.ckpt", lambda w, good, folder: pickled({}), "looks like nothing"),
    "a lone tensor": (
        "ag.ckpt",
        lambda w, good, folder: pickled(torch.zeros(3)),
        "holds a Tensor where a checkpoint has names",
    ),
    "no VAE": (
        "ah.safetensors",
        lambda w, good, folder: tensors(without(w, "first_stage_model.")),
        "has no VAE; put one beside it as ah.vae.safetensors",
    ),
    "a layer missing": (
        "ai.safetensors",
        lambda w, good, folder: tensors(without(w, "model.diffusion_model.input_blocks.5.0")),
        "ai.safetensors is not complete: .*input_blocks.5.0.* missing",
    ),
    "a wrong shape": (
        "aj.safetensors",
        lambda w, good, folder: tensors(reshaped(w)),
        "out.2.weight has shape .4, 32, 1, 1. instead of",
    ),
    "whole numbers for weights": (
        "ak.safetensors",
        lambda w, good, folder: tensors({n: t.to(torch.int8) for n, t in w.items()}),
        "use fp16, bf16 or fp32",
    ),
    "no numbers at all behind a pickle": (
        "al.ckpt",
        lambda w, good, folder: archive({"archive/data.pkl": b"\x80\x02}q\x00.", "archive/version": b"3"}),
        "looks like nothing|damaged",
    ),
    "a pickle that ends early": (
        "am.ckpt",
        lambda w, good, folder: archive({"archive/data.pkl": b"\x80\x02}q", "archive/version": b"3"}),
        "damaged",
    ),
    "a tensor larger than its storage": (
        "an.ckpt",
        lambda w, good, folder: pickled({"a": torch.zeros(4)}).replace(b"K\x04\x85", b"K\xff\x85"),
        "damaged|looks like",
    ),
    "a flat convolution": (
        "ao.safetensors",
        lambda w, good, folder: tensors(w | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4)}),
        "not a supported checkpoint: its first convolution has shape .4.",
    ),
    "a key without end": (
        "ap.ckpt",
        lambda w, good, folder: archive({"archive/data.pkl": KEY, "archive/version": b"3"}),
        "damaged or hostile.*nothing was run",
    ),
    "a key without bottom": (
        "aq.ckpt",
        lambda w, good, folder: archive(
            {"archive/data.pkl": b"\x80\x02}N" + b"\x85" * 1_000_000 + b"Ns.", "archive/version": b"3"}
        ),
        "damaged or hostile.*nothing was run",
    ),
    "a call of what is endless to write out": (
        "ar.ckpt",
        lambda w, good, folder: archive({"archive/data.pkl": CALLS, "archive/version": b"3"}),
        "damaged or hostile.*nothing was run",
    ),
    "a pickle in capitals": (
        "as.ckpt",
        lambda w, good, folder: archive({"a/DATA.PKL": KEY, "a/data.pkl": b"\x80\x02}q\x00.", "a/version": b"3"}),
        "ordinary zip archive",
    ),
    "one number for all": (
        "at.ckpt",
        lambda w, good, folder: pickled(
            {"state_dict": {n: torch.zeros(1).expand(t.shape) if t.ndim else t for n, t in w.items()}}
        ),
        "claims more numbers for .* than it holds",
    ),
    "one tensor for all": (
        "au.ckpt",
        lambda w, good, folder: pickled({"state_dict": dict.fromkeys(w, torch.zeros(10_000))}),
        "several times as large as the file",
    ),
    "a tensor without numbers": (
        "av.ckpt",
        lambda w, good, folder: pickled(w | {OUT: torch.empty(w[OUT].shape, device="meta")}),
        "holds .*out.2.weight as a tensor without numbers",
    ),
    "a sparse tensor": (
        "aw.ckpt",
        lambda w, good, folder: pickled(w | {OUT: w[OUT].to_sparse()}),
        "holds .*out.2.weight as a tensor of layout torch.sparse_coo",
    ),
    "layers without end": (
        "ax.safetensors",
        lambda w, good, folder: tensors(w | zeros([f"{LAYERS}.999999999.z"])),
        "not complete: .*encoder.layers.1 is missing",
    ),
    "too many layers": (
        "ay.safetensors",
        lambda w, good, folder: tensors(w | zeros([f"{LAYERS}.{n}.z" for n in range(100)])),
        "a text encoder of up to 64 layers",
    ),
    "a width that no norm divides": (
        "az.safetensors",
        lambda w, good, folder: tensors(
            {n: torch.zeros(s) for n, s in shapes(1, Width(24, 32, 64, 1, tokens=64)).items()}
        ),
        f"az.safetensors {NO_NETWORK} .num_channels",
    ),
    "a width that no heads divide": (
        "ba.safetensors",
        lambda w, good, folder: tensors(
            {n: torch.zeros(s) for n, s in shapes(1, Width(32, 32, 200, 1, tokens=64)).items()}
        ),
        f"ba.safetensors {NO_NETWORK} .*200",
    ),
    "a width of nothing": (
        "bb.safetensors",
        lambda w, good, folder: tensors(
            {n: torch.zeros(s) for n, s in shapes(1, Width(32, 0, 64, 1, tokens=64)).items()}
        ),
        "bb.safetensors is not a supported checkpoint|not complete",
    ),
    "a flat embedding": (
        "bc.safetensors",
        lambda w, good, folder: tensors(
            w | {LAYERS.replace("encoder.layers", "embeddings.token_embedding.weight"): torch.zeros(4)}
        ),
        "not a supported checkpoint: a tensor has fewer dimensions",
    ),
}


def tensors(named):
    from safetensors.torch import save as to_bytes

    return to_bytes({name: tensor.contiguous() for name, tensor in named.items()})


def refuse(path):
    """The reason why a file cannot be used: found by listing it, or at the latest before another model is let go."""
    catalog = Catalog()
    reasons = catalog.problems(path.parent)
    if reasons:
        return reasons[path.stem]
    with pytest.raises(ModelError) as refused:
        check_model(catalog.find_models(path.parent)[path.stem])
    return str(refused.value)


def test_there_are_more_than_twenty():
    assert len(FILES) >= 20 and len({name for name, _, _ in FILES.values()}) == len(FILES)


@pytest.mark.filterwarnings("ignore:Validating sparse:UserWarning", "ignore:Initializing zero-element:UserWarning")
@pytest.mark.parametrize("kind", FILES)
def test_each_has_the_right_error_and_runs_nothing(kind, weights, good, tmp_path):
    name, content, reason = FILES[kind]
    path = tmp_path / name
    path.write_bytes(content(weights, good, tmp_path))
    said = refuse(path)
    assert re.search(reason, said), said
    assert name in said and "\n" not in said and len(said) < 500
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_hostile_vae_beside_a_good_file_is_refused(good, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(good)
    (tmp_path / "a.vae.pt").write_bytes(pickled(Harm(tmp_path / "harm")))
    assert "a.vae.pt asks for" in Catalog().problems(tmp_path)["a"]
    assert not (tmp_path / "harm").exists()


def test_a_vae_of_odd_shapes_beside_a_good_file_is_refused(good, weights, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(good)
    vae = {
        name.removeprefix("first_stage_model."): tensor for name, tensor in only(weights, "first_stage_model.").items()
    }
    for odd in (torch.zeros(()), torch.zeros(33, 3, 3, 3)):
        (tmp_path / "a.vae.safetensors").write_bytes(tensors(vae | {"encoder.down.0.block.0.conv1.weight": odd}))
        with pytest.raises(ModelError, match="a.vae.safetensors is "):
            check_model(Catalog().find_models(tmp_path)["a"])


def test_a_folder_with_a_cut_file_is_refused_before_it_is_opened(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(EMOJI, folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="model copy: unet/diffusion_pytorch_model.safetensors is cut short"):
        check_model(Catalog().find_models(tmp_path)["copy"])
    file.unlink()
    with pytest.raises(ModelError, match="model copy: unet/diffusion_pytorch_model.safetensors is missing"):
        check_model(Catalog().find_models(tmp_path)["copy"])


def listed(folder, part, text):
    """What is said about a folder one of whose configurations is this text, beside a model that is good."""
    for name in ("good", "odd"):
        for file in EMOJI.glob("*/*config.json"):
            (folder / name / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / name / file.parent.name)
        shutil.copy(EMOJI / "model_index.json", folder / name)
    file = folder / "odd" / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(text if isinstance(text, str) else json.dumps(json.loads(file.read_text()) | text))
    catalog = Catalog()
    assert list(catalog.find_models(folder)) == ["good"]
    return catalog.problems(folder)["odd"]


@pytest.mark.parametrize(
    "part, text, reason",
    [
        ("unet", {"sample_size": 0}, "sample_size is 0; it must be a whole number from 1"),
        ("unet", {"sample_size": [16, 16]}, "sample_size is .16, 16.; it must be"),
        ("vae", {"latent_channels": "4"}, "latent_channels is 4; it must be"),
        ("vae", {"block_out_channels": [1] * 5000}, "up to 4096 pixels"),
        ("vae", {"block_out_channels": []}, "up to 4096 pixels"),
        ("unet", {"block_out_channels": [1] * 50}, "up to 4096 pixels"),
        ("unet", "[" * 100_000, "unet/config.json is not JSON"),
        ("scheduler", {"_class_name": None}, "its configuration cannot be read"),
        ("scheduler", {"num_train_timesteps": 10**12}, "num_train_timesteps is 1000000000000; it must be"),
        ("scheduler", {"rescale_betas_zero_snr": True, "num_train_timesteps": 1}, "its configuration cannot be read"),
    ],
)
def test_an_odd_configuration_costs_no_other_model(tmp_path, part, text, reason):
    said = listed(tmp_path, part, text)
    assert said.startswith("model odd") and re.search(reason, said), said


def test_whatever_reading_one_raises_costs_no_other_model(good, tmp_path, monkeypatch):
    import weights.catalog as catalog

    (tmp_path / "a.safetensors").write_bytes(good)
    (tmp_path / "b.safetensors").write_bytes(good)
    read = catalog.read_single

    def fails(path, name, *more):
        if name == "b":
            raise ArithmeticError("what nobody thought of\nand more")
        return read(path, name, *more)

    monkeypatch.setattr(catalog, "read_single", fails)
    known = Catalog()
    assert list(known.find_models(tmp_path)) == ["a"]
    assert known.problems(tmp_path)["b"] == (
        "b.safetensors is damaged or no model (ArithmeticError: what nobody thought of); copy or download it again"
    )


@pytest.fixture
def engine(registry, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    opened = []

    def opening(info, device):
        opened.append(info.name)
        return ToyModel(info)

    settings = Settings(root=tmp_path, outputs=tmp_path / "outputs", weights=folder)
    engine = Engine(registry, settings, opening, check_model=check_model)
    engine.opened = opened
    engine.start()
    yield engine
    engine.close()


def test_the_model_in_use_stays_in_use(engine, good, weights):
    folder = engine.settings.weights
    (folder / "a.safetensors").write_bytes(good)
    request = Request(steps=2, model="a", width=128, height=128)
    assert isinstance(engine.submit(request).wait(WAIT), Finished)
    # Its shapes tell a checkpoint, and only building it shows that it is none.
    (folder / "b.safetensors").write_bytes(tensors(reshaped(weights)))
    outcome = engine.submit(Request(steps=2, model="b", width=128, height=128)).wait(WAIT)
    assert isinstance(outcome, Failed) and "B.safetensors is not a supported checkpoint" in outcome.message
    assert engine.status == "a on cpu, ready"
    assert isinstance(engine.submit(request).wait(WAIT), Finished)
    assert engine.opened == ["a"]


def test_asking_for_a_refused_file_says_why(engine, good):
    (engine.settings.weights / "a.safetensors").write_bytes(good)
    (engine.settings.weights / "page.ckpt").write_bytes(b"<html>")
    assert engine.refused() == {"page": engine.refused()["page"]} and "web page" in engine.refused()["page"]
    with pytest.raises(RequestError, match="Model 'page' cannot be used: page.ckpt is a web page"):
        engine.submit(Request(model="page"))


def test_a_changed_file_is_opened_anew(engine, good):
    path = engine.settings.weights / "a.safetensors"
    path.write_bytes(good)
    request = Request(steps=1, model="a", width=128, height=128)
    assert isinstance(engine.submit(request).wait(WAIT), Finished)
    os.utime(path, (1, 1))
    assert isinstance(engine.submit(request).wait(WAIT), Finished)
    assert engine.opened == ["a", "a"]


def test_a_file_that_is_good_opens(good, tmp_path):
    # The files above are refused for what they are told to be, and not for what they share with this one.
    (tmp_path / "good.safetensors").write_bytes(good)
    info = Catalog().find_models(tmp_path)["good"]
    check_model(info)
    assert open_model(info, "cpu").identity.digest
