"""Guidances as plugins: each against its paper or diffusers, and a request's guidance from the menu to the replay."""

import pytest
import torch
from conftest import ToyModel, toy
from diffusers.guiders import adaptive_projected_guidance, classifier_free_zero_star_guidance
from diffusers.guiders import tangential_classifier_free_guidance as tangential
from oracles import builtin, guided, normal, sd
from test_estimates import Network, euler

from samplers import Step, guidance, sampler
from samplers.check import CheckFailed
from samplers.guidance import Method
from samplers.guidance_check import check_guidance_quickly
from samplers.registry import discover
from samplers.run import Plan, SamplerFailed, run
from samplers.sampler import GuidanceState
from samplers.schedule import flow
from samplers.testing import check_guidance
from samplers.wrappers import Counted
from webui.api.script_api import Api
from webui.core.infotext import infotext
from webui.core.limits import LOCAL
from webui.core.links import from_query, to_query
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.eta_estimator import EtaEstimator
from webui.engine.replay import into, recipe
from webui.engine.replay_verdict import compare
from webui.importers.a1111 import read_infotext
from webui.importers.imported_settings import from_external, from_record
from webui.settings import Settings
from webui.tabs.form.form import to_request
from webui.tabs.form.form_state import fresh, recall, recall_options
from webui.tabs.lab.axes import kinds, menu, read_axis
from webui.tabs.plugins import plugins_html

SHAPE, SCALE, SIGMA = (2, 3, 6, 5), 5.0, 2.0
LIST = (10.0, 3.0, 1.0, 0.2, 0.0)
GUIDANCES = builtin().guidances


def of(name, **options):
    return Method(GUIDANCES[name].item, options)


def estimates(model=None, sigmas=LIST):
    """The conditional and the unconditional estimate at SIGMA, and the state of a run that asks for the first time."""
    x = 0.3 + SIGMA * normal(*SHAPE)
    return normal(*SHAPE, seed=1), normal(*SHAPE, seed=2), GuidanceState(x, sigmas, model or sd())


@pytest.mark.parametrize("name", GUIDANCES)
def test_every_guidance_keeps_its_contract(name):
    check_guidance(GUIDANCES[name].item)


def test_apg_is_that_of_diffusers():
    cond, uncond, state = estimates()
    buffer = adaptive_projected_guidance.MomentumBuffer(-0.75)
    limit = 0.5 * cond[0].numel() ** 0.5
    for step in range(3):
        now = cond + 0.1 * step, uncond - 0.2 * step
        expected = adaptive_projected_guidance.normalized_guidance(*now, SCALE - 1, buffer, 0.3, limit, True)
        made = of("APG", parallel=0.3, largest=0.5, momentum=-0.75)(*now, SIGMA, SCALE, state)
        torch.testing.assert_close(made, expected)


def test_tcfg_is_that_of_diffusers_on_eps():
    cond, uncond, state = estimates()
    eps = [(state.x - each) / SIGMA for each in (cond, uncond)]
    expected = state.x - SIGMA * tangential.normalized_guidance(*eps, SCALE - 1, True)
    # diffusers leaves the shift as it was; the paper's takes the damped estimate there, too.
    damped = state.x - SIGMA * tangential.normalized_guidance(*eps, 0.0)
    made = of("TCFG")(cond, uncond, SIGMA, SCALE, state)
    torch.testing.assert_close(made, damped + SCALE * (cond - damped), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(made, expected)


@pytest.mark.parametrize("model", [sd(), flow()])
def test_cfg_zero_star_scales_the_unconditional_velocity_as_diffusers_does(model):
    cond, uncond, state = estimates(model)
    rate = (1 + SIGMA * model.flow) / SIGMA
    first, second = (state.x / SIGMA - rate * each for each in (cond, uncond))
    scale = classifier_free_zero_star_guidance.cfg_zero_star_scale(first.flatten(1), second.flatten(1))
    second = scale.reshape(-1, 1, 1, 1) * second
    made = of("CFG-Zero*")(cond, uncond, SIGMA, SCALE, state)
    velocity = state.x / SIGMA - rate * made
    torch.testing.assert_close(velocity, second + SCALE * (first - second), rtol=1e-5, atol=1e-5)


def test_cfg_zero_star_stands_still_in_the_first_step_of_a_flow():
    cond, uncond, state = estimates(flow())
    made = of("CFG-Zero*")(cond, uncond, LIST[0], SCALE, state)
    # Velocity 0 keeps the state of flow scaling, x / (1 + sigma), at any next level.
    for lower in LIST[1:]:
        x = made + lower / LIST[0] * (state.x - made)
        torch.testing.assert_close(x / (1 + lower), state.x / (1 + LIST[0]))


def test_fdg_is_cfg_on_details_and_less_on_what_is_coarse():
    cond, uncond, state = estimates()
    cfg = uncond + SCALE * (cond - uncond)
    torch.testing.assert_close(of("FDG", low=1.0)(cond, uncond, SIGMA, SCALE, state), cfg)
    even = uncond + torch.ones(SHAPE).double()
    torch.testing.assert_close(of("FDG", low=0.25)(even, uncond, SIGMA, SCALE, state), uncond + 1 + 0.25 * (SCALE - 1))
    checks = uncond + (-1.0) ** (torch.arange(6)[:, None] + torch.arange(5))
    made = of("FDG")(checks, uncond, SIGMA, SCALE, state)[..., 2:4, 2:3]
    torch.testing.assert_close(made, (uncond + SCALE * (checks - uncond))[..., 2:4, 2:3])


@sampler("Euler CFG++", order=1, calls=1)
def euler_cfg_pp(denoise, x, sigmas, noise):
    for sigma, lower in zip(sigmas, sigmas[1:]):
        _, conditional, unconditional = denoise.parts(x, sigma)
        denoised = unconditional + 0.4 * (conditional - unconditional)
        x = denoised + lower / sigma * (x - unconditional)
        yield Step(x, lower, denoised)


def denoiser(method, network=None, scale=SCALE, **more):
    conditions = torch.full((1, 7, 8), 0.7), torch.full((1, 7, 8), -0.4)
    return guided(network or Network(), more.pop("model", sd()), "epsilon", *conditions, scale, method=method, **more)


def end(walk, denoise):
    return run(Plan(walk, {}, LIST), denoise, torch.zeros(SHAPE, dtype=torch.float64), (1, 2)).x


def test_euler_with_the_scale_of_cfg_pp_is_euler_cfg_pp():
    made = end(euler, denoiser(of("CFG++", full=SCALE / 0.4)))
    torch.testing.assert_close(made, end(euler_cfg_pp, denoiser(Method())))


def test_adaptive_guidance_is_cfg_until_a_picture_agrees_and_then_the_conditional_estimate():
    cond, uncond, state = estimates()
    # The second picture's estimates agree; the first one's never do.
    uncond[1] = cond[1] + 1e-4
    method = of("Adaptive")
    first = method(cond, uncond, SIGMA, SCALE, state)
    torch.testing.assert_close(first, uncond + SCALE * (cond - uncond))
    second = method(cond, uncond, SIGMA, SCALE, state)
    assert torch.equal(second[0], first[0]) and torch.equal(second[1], cond[1])
    assert not method.skips(SIGMA, SCALE, state)


def test_adaptive_guidance_saves_evaluations_and_they_are_counted():
    network = Network()
    counted = Counted(denoiser(of("Adaptive", agreement=0.9), network), 2)
    # Two pictures with both estimates until they agree, and with one estimate from then on.
    end(euler, counted)
    assert set(network.batches) == {4, 2} and network.batches == sorted(network.batches, reverse=True)
    assert counted.calls == len(network.batches) == 4
    assert counted.evaluations_each == sum(network.batches) / 2
    assert Counted(denoiser(Method()), 2).evaluations_each == 0


def test_the_time_left_follows_what_a_call_evaluates():
    plan = Plan(euler, {}, tuple(float(i) for i in range(10, -1, -1)))
    eta = EtaEstimator([plan], [1])
    eta.begin_batch(0.0)
    now, evaluations = 0.0, 0
    for halves in (2, 2, 2, 2):
        now, evaluations = now + halves, evaluations + halves
        eta.called(1.0, now, evaluations=evaluations)
    assert eta.remaining(4) == pytest.approx(12.0)
    eta.called(1.0, now + 1, evaluations=evaluations + 1)
    assert eta.remaining(5) == pytest.approx(5.0)


def test_what_a_guidance_keeps_is_of_one_run():
    apg = denoiser(of("APG"))
    assert torch.equal(end(euler, apg), end(euler, apg))


def test_a_guidance_that_fails_is_named_and_not_the_sampler():
    @guidance("Odd")
    def odd(conditional, unconditional, sigma, scale, state):
        return conditional[:, :, : len(state["nothing"])]

    with pytest.raises(SamplerFailed, match=r"^guidance Odd failed \(line \d+ of test_guidances.py\): KeyError"):
        end(euler, denoiser(Method(odd)))


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda c, u, sigma, scale, state: c.mean(0, keepdim=True) + 0 * c, "a picture alone to equal itself"),
        (lambda c, u, sigma, scale, state: c[:1], r"expected a guided estimate like the conditional one, \(2, 2, 4"),
        (lambda c, u, sigma, scale, state: c / (sigma - 1.0), "finite numbers; got NaN or infinity at sigma 1"),
        (lambda c, u, sigma, scale, state: c.add_(u), "left as they were given; got a change"),
        (lambda c, u, sigma, scale, state: c + torch.randn(1), "global state to be left alone"),
        (lambda c, u, sigma, scale, state: state["x"], "a run without an error; got KeyError"),
    ],
)
def test_what_is_wrong_with_a_guidance_is_said_when_it_is_loaded(function, message):
    with pytest.raises(CheckFailed, match=message):
        check_guidance_quickly(guidance("Wrong")(function))


def test_a_plugin_registers_guidances(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from samplers import guidance, hookimpl\n"
        "@guidance('Half')\ndef half(conditional, unconditional, sigma, scale, state):\n"
        "    return (conditional + unconditional) / 2\n"
        "@guidance('CFG')\ndef taken(conditional, unconditional, sigma, scale, state):\n    return conditional\n"
        "@hookimpl\ndef register_guidances():\n    return [half, taken]\n"
    )
    registry = discover(tmp_path / "nowhere", [tmp_path], packages=False)
    entry = registry.guidance(f"{tmp_path.name}/mine.py/Half")
    assert entry.digest and "passed" in entry.check and registry.guidance("Half") is entry
    assert [broken.reason for broken in registry.broken] == ["the name 'CFG' is taken by samplers"]


@pytest.fixture(scope="module")
def engine(registry, tmp_path_factory):
    class Guided(ToyModel):
        """A toy model with real guidance, on estimates that differ with the prompt."""

        def denoiser(self, prompt, negative_prompt="", guidance=1.0, method=None, **conditioning):
            return denoiser(method, scale=guidance)

    root = tmp_path_factory.mktemp("guidances")
    settings = Settings(root=root, outputs=root / "outputs", model="toy")
    engine = Engine(registry, settings, lambda info, device: Guided(toy()), lambda folder: {"toy": toy()})
    engine.start()
    yield engine
    engine.close()


APG = dict(guidance_method="APG", guidance_options={"momentum": -0.25, "largest": 0.5})


def drawn(engine, **fields):
    *_, result = Api(engine).txt2img("a", steps=3, seed=1, sampler="Euler", **fields)
    return result


def test_a_script_names_one_and_the_picture_carries_and_replays_it(engine):
    result, plain = drawn(engine, **APG), drawn(engine)
    assert result.info["guidance_options"] == {"parallel": 0.0, "largest": 0.5, "momentum": -0.25}
    record, before = (read_picture(each.files[0]).record for each in (result, plain))
    assert record.guidance.id == "built-in/guidance/APG" and record.guidance.digest
    assert record.pixels != before.pixels and "guidance" not in before.data
    assert record.data["evaluations"] == 6 and result.info["evaluations_each"] == [6]
    path = engine.outputs / result.files[0]
    wanted = into(recipe(path, engine), engine.outputs / "again")
    job = engine.submit_resolved(wanted.resolved, environment=wanted.environment)
    job.wait(60)
    assert str(compare(path, job.pictures[0].path, wanted)) == "bit-equal"


def test_cfg_by_its_name_is_the_default(engine):
    named, plain = drawn(engine, guidance_method="CFG"), drawn(engine)
    assert named.info["guidance_method"] == ""
    assert read_picture(named.files[0]).record.pixels == read_picture(plain.files[0]).record.pixels


def test_the_settings_come_back_from_the_record_and_from_the_text(engine, registry):
    metadata = read_picture(drawn(engine, **APG).files[0])
    full = APG["guidance_options"] | {"parallel": 0.0}
    assert "Guidance method: APG" in metadata.parameters
    for fields in (
        from_record(metadata.record, registry, engine.models()).fields,
        from_external(read_infotext(infotext(metadata.record.data)), registry, engine.models()).fields,
    ):
        assert (fields["guidance_method"], fields["guidance_options"]) == ("APG", full)


def test_a_guidance_that_is_not_here_is_an_error_and_not_replaced(engine):
    metadata = read_picture(drawn(engine, **APG).files[0])
    bare = discover(engine.outputs / "nowhere", packages=False)
    imported = from_record(metadata.record, bare, engine.models())
    assert "guidance_method" in imported.open
    assert "Unknown guidance 'built-in/guidance/APG'; known are CFG." in imported.missing
    text = from_external(read_infotext(metadata.parameters), bare, engine.models())
    assert "Guidance 'APG' is not loaded; choose one." in text.missing


@pytest.mark.parametrize(
    "fields, sentence",
    [
        (dict(guidance_method="ABC"), "Unknown guidance 'ABC'; known are CFG, APG"),
        (dict(guidance_options={"eta": 1.0}), "Guidance CFG has no option 'eta'; it takes no options."),
        (APG | dict(guidance_options={"momentum": 2}), "Guidance APG: option 'momentum' is 2; allowed is a number"),
    ],
)
def test_an_error_says_what_is_allowed(engine, fields, sentence):
    with pytest.raises(RequestError, match=sentence):
        engine.resolve(Request(**fields))


def test_a_link_and_a_browser_keep_it(registry):
    request = Request(**APG)
    assert from_query(to_query(request))[0] == APG
    saved = dict(model="toy", guidance_method="APG", options={"guidances": {"APG": {"momentum": 0.5, "largest": 9}}})
    assert recall(saved, registry, {"toy": toy()}, LOCAL)["guidance_method"] == "APG"
    kept = recall_options(saved, registry)["guidances"]["APG"]
    assert kept == {"parallel": 0.0, "largest": 0.06, "momentum": 0.5}
    recalled = recall(saved | {"guidance_method": "ABC"}, registry, {"toy": toy()}, LOCAL)
    assert recalled["guidance_method"] == ""


def test_a_form_makes_a_request_of_it(registry):
    values = fresh(registry, toy()) | dict(guidance_method="APG", options=recall_options(None, registry))
    request = to_request("txt2img", values)
    assert (request.guidance_method, request.guidance_options["momentum"]) == ("APG", -0.5)


def test_grids_vary_it_and_its_options(registry):
    titles = kinds(registry)
    assert titles["guidance_method"] == "Guidance method"
    assert titles["guidance_option:momentum"] == "Guidance option: Momentum"
    assert menu("guidance_method", registry)[:2] == ["CFG", "Adaptive"]
    axis = read_axis("guidance_method", ["CFG", "APG"], registry)
    assert [(value.label, value.change({})["guidance_method"]) for value in axis.values] == [
        ("CFG", ""),
        ("APG", "APG"),
    ]
    changed = read_axis("guidance_option:momentum", "-0.5, 0", registry).values[0].change({})
    assert changed == {"guidance_options": {"momentum": -0.5}}


def test_it_is_listed_like_samplers(engine, registry):
    listed = Api(engine).catalog()["guidances"]
    assert [one["name"] for one in listed][:2] == ["CFG", "Adaptive"]
    assert {option["name"] for one in listed for option in one["options"]} >= {"momentum", "agreement"}
    page = plugins_html(registry)
    assert "Guidances" in page and "CFG-Zero*" in page
