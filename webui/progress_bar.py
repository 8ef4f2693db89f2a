"""The bar on the terminal of a command that waits for a job."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tqdm import tqdm

from .engine.events import Event, Progress
from .engine.jobs import Job


def events_beside_bar(job: Job, quiet: bool) -> Iterator[Event]:
    """The events of a job but its Progress, which a bar shows meanwhile, unless `quiet` or where no terminal is."""
    with tqdm(disable=quiet or None, unit="call", file=sys.stderr, leave=False) as bar:
        for event in job.events():
            if isinstance(event, Progress):
                bar.total = event.total_calls
                bar.set_description(event.text, refresh=False)
                bar.update(event.calls - bar.n)
            elif event is not None:
                # What is printed of it takes the place of the bar, which comes again below.
                bar.clear()
                yield event
