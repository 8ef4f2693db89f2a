"""What Prometheus and the log learn of jobs."""

import json
import logging

import httpx
import pytest
from pages import free_port

from webui.engine.events import Failed, Finished
from webui.engine.job_queue import JobQueue
from webui.engine.jobs import Job
from webui.job_log import log_ended, log_to
from webui.metrics import Metrics


def finish(queue, outcome):
    job = Job("", owner="me")
    queue.put(job)
    queue.take(0)
    queue.finish(job, outcome)
    return job


def test_prometheus_reads_what_ended_and_what_waits():
    metrics, port = Metrics(), free_port()
    queue = JobQueue(lambda: 0.0, 60.0, metrics.ended)
    metrics.serve(queue, port)
    finish(queue, Finished({})), finish(queue, Failed("it broke"))
    queue.put(Job(""))
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    for line in (
        'sigmalab_jobs_total{sampler="",state="done"} 1.0',
        'sigmalab_jobs_total{sampler="",state="failed"} 1.0',
        "sigmalab_job_seconds_count 2.0",
        "sigmalab_waiting_jobs 1.0",
        "sigmalab_running_jobs 0.0",
    ):
        assert line in text


@pytest.mark.parametrize("outcome, state", [(Finished({}), "done"), (Failed("it broke"), "failed")])
def test_the_log_has_a_line_for_each_job(tmp_path, outcome, state):
    handler = log_to(tmp_path / "log")
    try:
        job = finish(JobQueue(lambda: 0.0, 60.0, log_ended), outcome)
        logging.getLogger("webui").warning("a\nb")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    first, second = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (first["job"], first["state"], first.get("problem")) == (job.id, state, getattr(outcome, "message", None))
    assert second["message"] == "a\nb" and second["level"] == "warning"
