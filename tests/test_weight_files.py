"""Files as people have them: subfolders, caches, endings, links, and what is no model."""

import os
import shutil

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from benchmarks.random_checkpoint import MINI, TRUE, XL, Width, checkpoint, save, shapes, with_average
from weights.catalog import Catalog
from weights.diffusers_folder import read_folder
from weights.families.ldm_unet import with_dotted_averages
from weights.folder_parts import Folder
from weights.model_info import ModelError
from weights.opening import open_model
from weights.single_file import read_single
from weights.tensors import Shape, TensorFile, read_shapes
from weights.weight_files import find_files

EMOJI = ROOT / "weights" / "emoji"
UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def weights():
    return checkpoint(1, Width(32, 32, 64, 1, tokens=64))


@pytest.fixture(scope="module")
def good(weights, tmp_path_factory):
    return save(tmp_path_factory.mktemp("good") / "good.safetensors", weights)


def put(path, good):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.hardlink_to(good)
    return path


def test_files_in_folders_and_with_other_endings_are_models(good, tmp_path):
    for name in ("a.safetensors", "B.SAFETENSORS", "c.sft", "styles/anime/d.safetensors", "styles/a.safetensors"):
        put(tmp_path / name, good)
    for name in ("loras/l.safetensors", "styles/one/two/three/four/deep.safetensors", ".cache/e.safetensors"):
        put(tmp_path / name, good)
    put(tmp_path / "._a.safetensors", good)
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    assert set(Catalog().find_models(tmp_path)) == {"a", "B", "c", "d", "a.safetensors"}
    assert Catalog().problems(tmp_path) == {}


def test_pickles_are_read_whatever_their_ending(weights, tmp_path):
    save(tmp_path / "x.ckpt", weights)
    for ending in ("pt", "pth", "bin"):
        put(tmp_path / f"{ending}.{ending}", tmp_path / "x.ckpt")
    assert set(Catalog().find_models(tmp_path)) == {"x", "pt", "pth", "bin"}


def test_a_circle_of_links_ends(good, tmp_path):
    put(tmp_path / "in/a.safetensors", good)
    (tmp_path / "in/again").symlink_to(tmp_path)
    assert find_files(tmp_path)[0].path == tmp_path / "in/a.safetensors"


def test_hugging_faces_cache_is_opened_at_its_main_revision(good, tmp_path):
    repository = tmp_path / "models--someone--tiny-model"
    for revision in ("aaa", "bbb"):
        shutil.copytree(EMOJI, repository / "snapshots" / revision, copy_function=os.link)
    put(repository / "blobs/f00d.safetensors", good)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("bbb")
    info = Catalog().find_models(tmp_path)["tiny-model"]
    assert (info.path.name, info.name) == ("bbb", "tiny-model")
    assert open_model(info, "cpu").name == "tiny-model"
    (repository / "refs/main").write_text("../../..")
    assert set(Catalog().find_models(tmp_path)) == {"tiny-model"}
    single = tmp_path / "models--someone--single/snapshots/ccc/file.safetensors"
    put(single, good)
    assert set(Catalog().find_models(tmp_path)) == {"tiny-model", "file"}


def test_a_folder_of_pickles_is_told_before_the_run(tmp_path):
    folder = shutil.copytree(EMOJI, tmp_path / "old")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "model old has its unet as .bin alone" in Catalog().problems(tmp_path)["old"]


def test_only_what_is_loaded_counts_in_the_digest(tmp_path):
    folder = shutil.copytree(EMOJI, tmp_path / "copy")
    before = Folder(read_folder(folder)).unet_files()
    for variant in ("fp16", "non_ema"):
        shutil.copy(before[0], folder / f"unet/diffusion_pytorch_model.{variant}.safetensors")
    assert Folder(read_folder(folder)).unet_files() == before


@pytest.mark.parametrize("version", [1, 2, XL])
@pytest.mark.parametrize("width", [MINI, TRUE])
def test_names_of_averages_get_their_dots_back(version, width, tmp_path):
    names = {name: size for name, size in shapes(version, width[version]).items() if name.startswith(UNET)}
    flat = {"model_ema." + name.removeprefix("model.").replace(".", ""): size for name, size in names.items()}
    file = TensorFile(tmp_path / "x", {name: Shape(size, torch.float32) for name, size in flat.items()})
    dotted = with_dotted_averages(file).sizes
    assert {name: size for name, size in dotted.items() if name.startswith(UNET)} == names


def test_a_file_with_the_average_alone_opens(weights, tmp_path):
    averaged = {name: tensor for name, tensor in with_average(weights).items() if not name.startswith(UNET)}
    model = open_model(read_single(save(tmp_path / "ema.safetensors", averaged)), "cpu")
    assert torch.equal(model.network.unet.conv_out.bias, weights[f"{UNET}out.2.bias"] / 2)
    del averaged["model_ema.diffusion_modeloutput_blocks110in_layers0weight"]
    info = read_single(save(tmp_path / "part.safetensors", averaged))
    with pytest.raises(ModelError, match="output_blocks.11.0.in_layers.0.weight is missing"):
        open_model(info, "cpu")


def test_a_vae_beside_its_checkpoint_is_no_model_and_one_alone_is_named(weights, good, tmp_path):
    vae = {name: tensor for name, tensor in weights.items() if name.startswith("first_stage_model.")}
    put(tmp_path / "a.safetensors", good)
    save_file(vae, tmp_path / "a.VAE.safetensors")
    assert Catalog().problems(tmp_path) == {}
    assert Catalog().find_models(tmp_path)["a"].vae.name == "a.VAE.safetensors"
    # One that comes later counts as well, and .safetensors goes before the others.
    catalog = Catalog()
    assert catalog.find_models(tmp_path)["a"].vae.name == "a.VAE.safetensors"
    (tmp_path / "a.VAE.safetensors").rename(tmp_path / "a.vae.ckpt")
    assert catalog.find_models(tmp_path)["a"].vae.name == "a.vae.ckpt"
    save_file(vae, tmp_path / "a.Vae.safetensors")
    assert catalog.find_models(tmp_path)["a"].vae.name == "a.Vae.safetensors"
    save_file(vae, tmp_path / "my.vae.safetensors")
    assert "my.vae.safetensors looks like a VAE alone" in Catalog().problems(tmp_path)["my.vae"]


def test_what_is_no_model_is_named(weights, good, tmp_path):
    without = {name: tensor for name, tensor in load_file(good).items() if not name.startswith("cond_stage")}
    save_file(without, tmp_path / "textless.safetensors")
    motion = {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": torch.zeros(4)}
    save_file(motion, tmp_path / "motion.safetensors")
    (tmp_path / "long.safetensors").write_bytes(good.read_bytes() + b"12345")
    problems = Catalog().problems(tmp_path)
    assert "a UNet and a VAE without a text encoder" in problems["textless"]
    assert "an AnimateDiff motion module" in problems["motion"]
    assert "has 5 bytes more than its header tells" in problems["long"]
    with pytest.raises(ModelError, match="5 bytes more"):
        read_shapes(tmp_path / "long.safetensors")
