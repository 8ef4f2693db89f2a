"""What /schedule says is what a run does: the same sigmas and the same number of network calls, in all combinations.

Here every sampler meets a tenth of the schedules and every schedule a tenth of the samplers, and every one of the
60 (steps, strength, meaning of strength) is met; which of them a pair gets is drawn by a seed.
`python -m benchmarks.schedule --product` runs the whole product.
"""

import json
import random
from itertools import product

import pytest
from conftest import ROOT, ToyModel, toy
from gradio_client import Client
from gradio_client.exceptions import AppError
from oracles import builtin, schedule, sd
from pages import served
from PIL import Image

from samplers.schedule import alpha_bar, log_snr, noise_share
from webui.api.script_api import Api, ApiResult
from webui.core.request import RequestError
from webui.engine.engine import Engine
from webui.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Should have t[ab]:UserWarning")

STEPS, STRENGTHS, MEANINGS = (1, 2, 5, 20, 50), (0.1, 0.25, 0.5, 0.58, 0.75, 1.0), ("steps", "noise")
KEYS = {"sigmas", "timesteps", "log_snr", "alpha_bar", "guidance", "noise_share", "nfe"}


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    yield from serving(tmp_path_factory.mktemp("toy"), {"toy": toy()}, ToyModel)


def serving(folder, models, open_model):
    Image.new("RGB", (16, 16), "teal").save(folder / "input.png")
    settings = Settings(root=folder, outputs=folder / "outputs", model=next(iter(models)))
    engine = Engine(builtin(), settings, lambda found, device: open_model(found), lambda path: models)
    engine.start()
    yield Api(engine), folder / "input.png"
    engine.close()


def combinations():
    """(sampler, schedule, steps, strength, meaning): every sampler with each tenth schedule, in turn."""
    rest = list(product(STEPS, STRENGTHS, MEANINGS))
    shuffled, drawn = random.Random(5), []
    for at, sampler in enumerate(builtin().samplers):
        for menu in list(builtin().schedules)[at % 10 :: 10]:
            if not drawn:
                drawn = shuffled.sample(rest, len(rest))
            yield sampler, menu, *drawn.pop()


def info_of(api, **settings):
    """The info of a real run, through the requests that pages and scripts make."""
    serve, picture = api
    wanted = dict(width=16, height=16, guidance=1.0, seed=3) | settings
    if wanted["strength"] == 1:
        del wanted["strength"], wanted["strength_as"]
        events = serve.txt2img("a", **wanted)
    else:
        events = serve.img2img(picture, "a", **wanted)
    *_, last = events
    assert isinstance(last, ApiResult)
    return last.info


def agree(api, sampler, schedule, steps, strength, strength_as, **size):
    settings = dict(sampler=sampler, schedule=schedule, steps=steps, strength=strength, strength_as=strength_as)
    said, info = api[0].schedule(**settings), info_of(api, **settings, **size)
    where = f"{settings}"
    if said["nfe"] is None:
        assert builtin().sampler(sampler).item.count_calls((3.0, 2.0, 0.0)) is None, where
        assert (said["sigmas"][0], said["sigmas"][-1]) == (info["sigmas"][0], info["sigmas"][-1]), where
    else:
        assert said["sigmas"] == info["sigmas"] and said["nfe"] == info["nfe"], where


@pytest.mark.parametrize("name", builtin().samplers)
def test_what_is_said_is_what_runs(api, name):
    for combination in combinations():
        if combination[0] == name:
            agree(api, *combination)


def test_every_name_and_every_setting_is_met():
    met = list(combinations())
    assert {one[0] for one in met} == set(builtin().samplers)
    assert {one[1] for one in met} == set(builtin().schedules)
    assert {one[2:] for one in met} == set(product(STEPS, STRENGTHS, MEANINGS))


def test_options_and_adaptive_grids(api):
    """Churn changes nothing of the list; a fixed method makes Flow's list and calls known."""
    settings = dict(schedule="Karras", steps=8, strength=1.0, strength_as="steps")
    for sampler, options in (("Euler", {"churn": 4.0}), ("Restart", {"times": 2}), ("Flow", {"method": "heun"})):
        said = api[0].schedule(sampler=sampler, options=options, **settings)
        info = info_of(api, sampler=sampler, options=options, **settings)
        assert said["sigmas"] == info["sigmas"] and said["nfe"] == info["nfe"]
    said, info = api[0].schedule(sampler="Flow", **settings), info_of(api, sampler="Flow", **settings)
    assert said["nfe"] is None and len(said["sigmas"]) == 9 != len(info["sigmas"])


def test_fifty_steps_at_058_run_29(api):
    assert api[0].schedule(steps=50, strength=0.58)["nfe"] == 29


def test_the_answer_is_the_documented_one(api):
    said = api[0].schedule(schedule="Karras", steps=10, schedule_options={"rho": 5})
    assert set(said) == KEYS and json.loads(json.dumps(said, allow_nan=False)) == said
    sigmas = schedule("Karras")(sd(), 10, rho=5)
    assert said["sigmas"] == list(sigmas) and said["sigmas"][-1] == 0 and said["nfe"] == 10
    assert said["log_snr"] == [log_snr(sigma) for sigma in sigmas] and said["log_snr"][-1] is None
    assert said["alpha_bar"] == [alpha_bar(sigma) for sigma in sigmas]
    assert said["noise_share"] == noise_share(sigmas[0])
    assert said["timesteps"] == pytest.approx([*(sd().timestep(sigma) for sigma in sigmas[:-1]), 0])


def test_both_meanings_of_strength(api):
    by_steps, by_noise = (api[0].schedule(steps=20, strength=0.5, strength_as=each) for each in MEANINGS)
    assert by_steps["nfe"] == 10 and by_noise["noise_share"] == pytest.approx(0.5, abs=1e-12)
    assert by_steps["sigmas"] == api[0].schedule(steps=20)["sigmas"][10:]


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(sampler="Eular"), ["Eular", "Euler"]),
        (dict(schedule="Karas"), ["Karas", "Karras"]),
        (dict(model="sdxl"), ["sdxl", "toy"]),
        (dict(steps=0), ["Steps", "1 to 1000"]),
        (dict(strength=0), ["Strength", "0.01 to 1"]),
        (dict(strength_as="sigma"), ["'steps' or 'noise'"]),
        (dict(options={"etta": 1}), ["etta", "eta"]),
        (dict(schedule="Karras", schedule_options={"rho": 99}), ["rho", "1 to 20"]),
        (dict(schedule="Custom", schedule_options={"numbers": "1, 2"}), ["Number 2 is 2"]),
    ],
)
def test_errors_say_what_is_allowed(api, wrong, says):
    with pytest.raises(RequestError) as error:
        api[0].schedule(**wrong)
    assert all(part in str(error.value) for part in says), str(error.value)


def test_no_model_is_opened_for_it(tmp_path):
    def refuse(found):
        raise AssertionError("a model was opened")

    serve, _ = next(serving(tmp_path, {"toy": toy()}, refuse))
    assert serve.schedule(steps=5)["nfe"] == 5 and serve._engine.opened_model is None
    serve._engine.close()


def test_scripts_get_it_through_gradio(tmp_path):
    with served(builtin(), tmp_path) as page:
        client = Client(page.url, verbose=False, analytics_enabled=False)
        said = client.predict(api_name="/schedule")
        assert set(said) == KEYS and said["nfe"] == 20 and said["log_snr"][-1] is None
        said = client.predict(
            "other", "Karras", 50, 0.58, "Heun", {"churn": 1}, {"rho": 5}, "steps", api_name="/schedule"
        )
        assert said["nfe"] == 57 and len(said["sigmas"]) == 30
        with pytest.raises(AppError, match="Strength must be a number from 0.01 to 1"):
            client.predict(strength=2, api_name="/schedule")


def drawn_for_emoji():
    """Three, drawn by a seed; guidance is off and steps are few, which changes no formula of a list or a count."""
    fixed = [name for name, entry in builtin().samplers.items() if entry.item.count_calls((3.0, 2.0, 0.0)) is not None]
    chance = random.Random(2023)
    menus = list(builtin().schedules)
    return [
        (
            chance.choice(fixed),
            chance.choice(menus),
            chance.choice(STEPS[:3]),
            chance.choice(STRENGTHS),
            chance.choice(MEANINGS),
        )
        for _ in range(3)
    ]


def test_some_combinations_on_the_embedded_model(emoji, tmp_path):
    for api in serving(tmp_path, {"emoji": emoji.info}, lambda found: emoji):
        for combination in drawn_for_emoji():
            agree(api, *combination, width=emoji.info.defaults.size, height=emoji.info.defaults.size)


def test_the_embedded_model_is_there():
    assert (ROOT / "weights" / "emoji" / "model_index.json").exists()
