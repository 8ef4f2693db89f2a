"""Euler SMEA Dy: Euler whose first two steps also ask the network at another size, for better composed large pictures.

    step 1   the mean of the estimate and of that of x enlarged by 1.25, made small again
    step 2   every second latent of every second row from the estimate of these alone, a picture of half the size

After Koishi-Star's Euler-Smea-Dyn-Sampler, https://github.com/Koishi-Star/Euler-Smea-Dyn-Sampler. The original takes
the two extra estimates for steps of their own at the old sigma, and leaves less noise in x than its level says; here
they go into the estimate of the step, so that x stays x0 + sigma * eps. Pictures differ for that reason.
"""

from itertools import pairwise

from torch.nn.functional import interpolate

from samplers import Step, hookimpl, sampler

PAPER = "https://github.com/Koishi-Star/Euler-Smea-Dyn-Sampler"
ENLARGED = 1.25


def _calls(sigmas):
    return len(sigmas) - 1 + sum(lower > 0 for lower in sigmas[1:3])


@sampler("Euler SMEA Dy", calls=_calls, resizes=True, paper=PAPER)
def smea_dy(denoise, x, sigmas, noise):
    for number, (sigma, lower) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        if number == 0 and lower > 0:
            size = [round(ENLARGED * side) for side in x.shape[-2:]]
            larger = denoise(interpolate(x, size, mode="nearest-exact"), sigma)
            denoised = (denoised + interpolate(larger, x.shape[-2:], mode="nearest-exact")) / 2
        elif number == 1 and lower > 0:
            denoised = denoised.clone()
            denoised[..., 1::2, 1::2] = denoise(x[..., 1::2, 1::2], sigma)
        x = denoised + lower / sigma * (x - denoised)
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [smea_dy]
