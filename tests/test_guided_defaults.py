"""What a sampler draws by default in few steps under the usual guidance is a picture and not noise."""

import pytest
import torch

from benchmarks.samplers import native
from samplers.run import plan, run
from samplers.schedule import stable_diffusion

GUIDANCE, CALLS = 5.0, 8
NEAR = 0.75  # relative error in the latents; what leaves the picture has 1.1 to 10


@pytest.fixture(scope="module")
def drawn(emoji, registry):
    """drawn(sampler, steps, **options): the latents of a picture on the Karras schedule."""
    denoise = emoji.denoiser("red apple", "", GUIDANCE)
    size = emoji.info.defaults.size
    schedule = registry.schedule("Karras").item

    @torch.no_grad()
    def draw(name, steps, **options):
        ready = plan(emoji.schedule, registry.sampler(name).item, schedule, steps, options)
        return run(ready, denoise, torch.zeros(1, *emoji.latents_shape(size, size)), (2,)).x

    return draw


@pytest.fixture(scope="module")
def exact(drawn):
    return drawn("DPM++ 2M", 20)


def error(drawn, exact):
    return ((drawn - exact).norm() / exact.norm()).item()


def test_few_guided_steps_draw_the_picture(drawn, exact, registry):
    """With those of one call a step: what they take from the steps before is what guidance upsets."""
    errors, sigmas = {}, registry.schedule("Karras").item(stable_diffusion(), CALLS)
    for name, sampler in native(registry).items():
        if not sampler.stochastic_with() and sampler.count_calls(sigmas) == CALLS:
            errors[name] = error(drawn(name, CALLS), exact)
    assert len(errors) >= 10
    assert {name: value for name, value in errors.items() if value > NEAR} == {}


@pytest.mark.parametrize(
    "name, options", [("DEIS", {"order": 3}), ("iPNDM", {"order": 4}), ("DPM++ 3M", {"longest": 10})]
)
def test_what_was_the_default_before_leaves_it(drawn, exact, name, options):
    assert error(drawn(name, CALLS, **options), exact) > NEAR
