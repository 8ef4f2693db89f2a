"""A schedule that rises."""

from samplers import hookimpl, schedule


@schedule("Rising")
def rising(model, steps):
    return [model.sigma_min + i for i in range(steps)]


@hookimpl
def register_schedules():
    return [rising]
