"""A log of jobs as JSON lines: one object a line, with the id of its job where there is one."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from .engine.events import Failed
from .engine.jobs import Job

# Fields that a record of a job has beside its text.
FIELDS = ("job", "account", "title", "state", "waited", "seconds", "pictures", "problem")

log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """A record as one line of JSON; a traceback is one of its texts."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = dict(
            time=datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            level=record.levelname.lower(),
            logger=record.name,
            message=record.getMessage(),
        )
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        return json.dumps(line, ensure_ascii=False)


def log_to(file: Path) -> logging.Handler:
    """Write everything that is logged to a file, too, as JSON lines. Raises OSError."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(JsonLines())
    handler.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    log.setLevel(logging.INFO)
    return handler


def log_ended(job: Job) -> None:
    """Tell how a job ended; without its prompt, which is its owner's."""
    facts = dict(job=job.id, account=job.account, title=job.title, state=job.state, pictures=len(job.pictures))
    if job.started is not None:
        facts |= dict(waited=round(job.started - job.created, 3), seconds=round(job.ended - job.started, 3))
    if isinstance(job.outcome, Failed):
        facts["problem"] = job.outcome.message
    log.info("job %s %s: %s", job.id, job.state, job.title, extra=facts)
