"""Draws from PyTorch's global generator."""

from itertools import pairwise

import torch

from samplers import Step, hookimpl, sampler


@sampler("Global random", stochastic=True)
def global_random(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = denoised + lower * torch.randn_like(x)
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [global_random]
