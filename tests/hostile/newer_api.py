"""Written for a plugin API that does not exist yet, with a name that only that one has."""

from samplers import name_of_the_future  # noqa: F401

SIGMALAB_API = 2
