"""Numbers about the queue for Prometheus, on a port of their own that only this machine reaches."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .engine.job_queue import JobQueue
from .engine.jobs import DrawJob, Job
from .engine.queue_room import MAX_WAITING

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

ADDRESS = "127.0.0.1"
SECONDS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800)


class Metrics:
    """What has happened since the start; what is now is read when somebody asks."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._jobs = Counter(
            "sigmalab_jobs",
            "Jobs that ended, by how and with which sampler",
            ["state", "sampler"],
            registry=self._registry,
        )
        self._pictures = Counter("sigmalab_pictures", "Pictures that were finished", registry=self._registry)
        self._seconds = Histogram(
            "sigmalab_job_seconds", "Seconds that a job ran", buckets=SECONDS, registry=self._registry
        )
        self._waited = Histogram(
            "sigmalab_wait_seconds", "Seconds that a job waited", buckets=SECONDS, registry=self._registry
        )

    def ended(self, job: Job) -> None:
        """Count a job that has ended."""
        sampler = job.request.sampler if isinstance(job, DrawJob) else ""
        self._jobs.labels(job.state, sampler).inc()
        self._pictures.inc(len(job.pictures))
        if job.started is not None:
            self._seconds.observe(job.ended - job.started)
            self._waited.observe(job.started - job.created)

    def serve(self, queue: JobQueue, port: int) -> None:
        """Answer http://127.0.0.1:port/metrics from now on. Raises OSError for a port that is taken."""
        self._registry.register(Now(queue))
        start_http_server(port, ADDRESS, self._registry)


class Now(Collector):
    """How long the queue is, and the memory in use."""

    def __init__(self, queue: JobQueue):
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        """The numbers of this moment."""
        waiting = [job for job in self._queue.waiting if not job.urgent]
        yield GaugeMetricFamily("sigmalab_waiting_jobs", "Jobs that wait", len(waiting))
        yield GaugeMetricFamily("sigmalab_waiting_jobs_limit", "Jobs that may wait", MAX_WAITING)
        yield GaugeMetricFamily("sigmalab_running_jobs", "Jobs that run", len(self._queue.running))
        yield GaugeMetricFamily("sigmalab_held_bytes", "Pictures of waiting jobs", sum(job.held for job in waiting))
        if resource is not None:
            # Linux counts in KiB, macOS in bytes.
            unit = 1 if sys.platform == "darwin" else 1024
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
            yield GaugeMetricFamily("sigmalab_memory_peak_bytes", "The most memory in use so far", most)
