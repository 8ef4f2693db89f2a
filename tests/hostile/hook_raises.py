"""Its hook fails."""

from samplers import hookimpl


@hookimpl
def register_samplers():
    return [{}["Euler"]]
