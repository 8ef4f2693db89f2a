"""A folder with a network and a schedule of its own, and the rest from the folder beside it."""

import json
import os
import shutil

import pytest
import torch
from conftest import ROOT
from oracles import states

from weights.catalog import Catalog
from weights.diffusers_folder import read_folder
from weights.model_info import ModelError
from weights.opening import check_model, open_model

EMOJI = ROOT / "weights" / "emoji"


@pytest.fixture
def folder(tmp_path):
    """A flow model that borrows from a copy of the embedded one."""
    shutil.copytree(EMOJI, tmp_path / "emoji")
    made = tmp_path / "emoji-flow"
    shutil.copytree(EMOJI / "unet", made / "unet")
    (made / "scheduler").mkdir()
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    (made / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = json.loads((EMOJI / "model_index.json").read_text())
    (made / "model_index.json").write_text(json.dumps(index | {"_borrows": "emoji"}))
    return made


def change(folder, **values):
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_the_rest_is_the_lenders(folder, emoji):
    info = Catalog().find_models(folder.parent)["emoji-flow"]
    assert info.prediction == "flow_prediction" and info.schedule.flow
    check_model(info)
    model = open_model(info, "cpu")
    assert torch.equal(states(model, "apple"), states(emoji, "apple"))
    latents = torch.zeros(1, *model.latents_shape(64, 64))
    assert model.decode(latents)[0].tobytes() == emoji.decode(latents)[0].tobytes()


def test_a_folder_whose_weights_are_replaced_is_another_model(folder):
    catalog = Catalog()
    before = catalog.find_models(folder.parent)["emoji-flow"]
    assert catalog.find_models(folder.parent)["emoji-flow"] is before
    # Written over in place, which leaves the date of the folder as it was.
    os.utime(next((folder / "unet").glob("*.safetensors")), (1, 1))
    assert catalog.find_models(folder.parent)["emoji-flow"] != before


def test_a_lender_counts_when_it_comes_and_when_it_changes(folder):
    lender, away = folder.parent / "emoji", folder.parent / "away"
    lender.rename(away)
    catalog = Catalog()
    assert "borrows its vae from 'emoji'" in catalog.problems(folder.parent)["emoji-flow"]
    away.rename(lender)
    before = catalog.find_models(folder.parent)["emoji-flow"]
    os.utime(next((lender / "vae").glob("*.safetensors")), (1, 1))
    assert catalog.find_models(folder.parent)["emoji-flow"] != before


@pytest.mark.parametrize("lender", ["nobody", "../emoji", "", "..", 7])
def test_only_a_folder_beside_it_lends(folder, lender):
    change(folder, _borrows=lender)
    with pytest.raises(ModelError, match="model emoji-flow borrows its vae from .*, which is not a folder beside it"):
        read_folder(folder)


def test_without_a_lender_the_missing_part_is_named(folder):
    change(folder, _borrows=None)
    with pytest.raises(ModelError, match="model emoji-flow has no vae/config.json; copy the whole diffusers folder"):
        read_folder(folder)


@pytest.mark.parametrize("text", ["{", "[]", "\ufeff"])
def test_an_index_that_cannot_be_read_is_an_error(folder, text):
    info = read_folder(folder)
    (folder / "model_index.json").write_text(text)
    with pytest.raises(ModelError, match="model emoji-flow: model_index.json"):
        check_model(info)
    assert "model_index.json" in Catalog().problems(folder.parent)["emoji-flow"]
