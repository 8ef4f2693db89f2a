"""How much the queue takes: jobs of one and of all, and the bytes of the pictures that they hold."""

from __future__ import annotations

from collections.abc import Sequence

from webui.core.request import RequestError

from .jobs import Job

MAX_WAITING = 256  # jobs in the queue, running and urgent ones not counted
MAX_HELD = 512 * 1024 * 1024  # bytes of pictures that waiting jobs hold
MAX_URGENT = 16  # urgent jobs in the queue


class QueueFull(RequestError):
    """There is no room for another job now; there will be."""


def check_room(
    waiting: Sequence[Job], urgent: bool, account: str, most: int | None, held: int, seconds: float | None
) -> None:
    """Raises QueueFull if one job more than those that wait would be too much.

    urgent   whether it is urgent
    account  whose it is, and `most` the waiting jobs that this account may have; None for no limit of its own
    held     bytes of pictures that it would hold
    seconds  until there may be room; None if that is not known
    """
    waiting = [job for job in waiting if job.urgent == urgent]
    if urgent:
        if len(waiting) >= MAX_URGENT:
            raise QueueFull("Too many are asking at once. Try again in a moment.")
        return
    come_back = f"Try again in about {max(1, round(seconds))} seconds." if seconds else "Try again in a moment."
    own = sum(job.account == account for job in waiting)
    if most is not None and own >= most:
        raise QueueFull(f"{own} jobs of yours are waiting, as many as you may have. {come_back}")
    if is_full(waiting):
        raise QueueFull(f"The queue is full: {MAX_WAITING} jobs are waiting. {come_back}")
    if held and sum(job.held for job in waiting) + held > MAX_HELD:
        raise QueueFull(f"The queue is full: its input pictures fill the memory. {come_back}")


def is_full(waiting: Sequence[Job]) -> bool:
    """Whether as many jobs wait as may."""
    return sum(not job.urgent for job in waiting) >= MAX_WAITING
