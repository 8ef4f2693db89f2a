"""Whether a guidance keeps its contract: the quick check that every one gets when it is loaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from .check import check_declarations, explained, fail, form_of, global_state_kept, place, since
from .sampler import Guidance, GuidanceState
from .schedule import stable_diffusion

TOY_LEVELS, TOY_SCALE = (8.0, 1.0, 0.2), 5.0  # noise levels and scale that a guidance is tried at


def check_guidance_quickly(guidance: Guidance, shape: Sequence[int] = (2, 2, 4, 4), **options: Any) -> str:
    """Guide two pictures down three noise levels; return what passed. Raises CheckFailed.

    The guided estimates are finite, like the conditional ones and, for each picture, the same when it is alone; nothing
    is changed in place.
    """
    began = time.perf_counter()
    check_declarations(guidance)
    generator = torch.Generator().manual_seed(0)
    x, first, second = torch.randn(3, *shape, generator=generator).unbind()
    kept = [each.clone() for each in (x, first, second)]
    with global_state_kept(f"random numbers, {place(guidance)}"), explained(guidance), torch.no_grad():
        together = _guide(guidance, x, first, second, options)
        alone = [_guide(guidance, x[i : i + 1], first[i : i + 1], second[i : i + 1], options) for i in range(len(x))]
    if any(not torch.equal(now, before) for now, before in zip((x, first, second), kept, strict=True)):
        fail("its inputs to be left as they were given", "a change of them", f"in-place operations, {place(guidance)}")
    for level, (guided, *each) in enumerate(zip(together, *alone, strict=True)):
        if not torch.isfinite(guided).all():
            fail("finite numbers", f"NaN or infinity at sigma {TOY_LEVELS[level]:g}", f"divisions, {place(guidance)}")
        if not torch.allclose(guided, torch.cat(each), rtol=1e-4, atol=1e-5):
            fail(
                "a picture alone to equal itself in a batch",
                "another one",
                f"sums over the first axis, the pictures, and decisions for all of them at once, {place(guidance)}",
            )
    return f"estimates, pictures apart, inputs and global state passed in {since(began)}"


def _guide(guidance: Guidance, x, conditional, unconditional, options) -> list[torch.Tensor]:
    """What a guidance makes of estimates at TOY_LEVELS; where it skips the unconditional one, the conditional one."""
    resolved, made = guidance.resolve(options), []
    state = GuidanceState(x, (*TOY_LEVELS, 0.0), stable_diffusion())
    for sigma in TOY_LEVELS:
        if guidance.skips(sigma, TOY_SCALE, state, **resolved):
            made.append(conditional)
            continue
        guided = guidance(conditional, unconditional, sigma, TOY_SCALE, state, **resolved)
        if not isinstance(guided, torch.Tensor) or form_of(guided) != form_of(conditional):
            came = form_of(guided) if isinstance(guided, torch.Tensor) else f"a {type(guided).__name__}"
            fail(f"a guided estimate like the conditional one, {form_of(conditional)}", came, place(guidance))
        made.append(guided)
    return made
