"""Offers a function that is no Sampler."""

from samplers import hookimpl


def plain(denoise, x, sigmas, noise):
    yield x


@hookimpl
def register_samplers():
    return [plain]
