"""The queue by itself: turns of accounts, bounds, and when a job begins."""

import time
from types import SimpleNamespace

import pytest

from webui.api import script_api
from webui.core.request import RequestError
from webui.engine import jobs, queue_room
from webui.engine.events import Finished, Progress
from webui.engine.job_queue import JobQueue
from webui.engine.jobs import Job


@pytest.fixture
def clock():
    return SimpleNamespace(now=0.0)


@pytest.fixture
def queue(clock):
    return JobQueue(lambda: clock.now, 60.0)


def put(queue, account="", most=None):
    job = Job("", owner="me")
    job.account = account
    queue.put(job, most)
    return job


def order(queue):
    jobs = []
    while (job := queue.take(0)) is not None:
        jobs.append(job.account)
        queue.finish(job, Finished({}))
    return "".join(jobs)


def test_jobs_of_one_account_keep_their_order(queue):
    jobs = [put(queue, "a") for _ in range(5)]
    assert list(queue.waiting) == jobs


def test_accounts_take_turns(queue):
    for account in "aaaabbc":
        put(queue, account)
    assert order(queue) == "abcabaa"


def test_tabs_take_turns_on_a_page_without_accounts(queue):
    jobs = [Job("", owner=owner) for owner in ("a/txt2img", "a/img2img", "b/txt2img", "", "")]
    for job in jobs:
        queue.put(job)
    assert [jobs.index(job) for job in queue.waiting] == [0, 2, 3, 1, 4]


def test_a_newcomer_does_not_wait_for_all_of_another(queue):
    for _ in range(4):
        put(queue, "a")
    queue.finish(queue.take(0), Finished({}))
    queue.finish(queue.take(0), Finished({}))
    put(queue, "b")
    assert order(queue) == "aba"


def test_an_account_may_fill_its_own_share_only(queue):
    put(queue, "a", most=1)
    with pytest.raises(RequestError, match="as many as you may have"):
        put(queue, "a", most=1)
    put(queue, "b", most=1)


def test_input_pictures_are_bounded(queue, monkeypatch):
    monkeypatch.setattr(Job, "held", queue_room.MAX_HELD // 2)
    put(queue), put(queue)
    with pytest.raises(RequestError, match="fill the memory"):
        put(queue)


def test_positions_come_with_the_time_that_jobs_took(queue, clock):
    put(queue)
    job = queue.take(0)
    clock.now = 10.0
    queue.finish(job, Finished({}))
    put(queue)
    queue.take(0)
    clock.now = 14.0
    first, second = put(queue), put(queue)
    assert [(each.snapshot().position, each.snapshot().wait) for each in (first, second)] == [(1, 6.0), (2, 16.0)]


def test_a_job_that_waits_hears_again_how_long(queue, clock, monkeypatch):
    monkeypatch.setattr(jobs, "PROGRESS_GAP", 0.0)
    put(queue)
    job = queue.take(0)
    clock.now = 30.0
    queue.finish(job, Finished({}))
    put(queue), queue.take(0)
    waiting = put(queue)
    events = waiting.events(tick=0.01)
    assert next(events).seconds == 30.0
    for now, told in ((31.0, None), (35.0, 25.0), (36.0, None), (45.0, 15.0)):
        clock.now = now
        queue.sweep()
        event = next(events)
        assert (event and event.seconds) == told


def test_a_full_queue_says_when_to_come_back(queue, clock, monkeypatch):
    monkeypatch.setattr(queue_room, "MAX_WAITING", 1)
    assert queue.seconds_until_room() is None
    put(queue)
    job = queue.take(0)
    clock.now = 30.0
    queue.finish(job, Finished({}))
    put(queue)
    assert queue.seconds_until_room() == 30.0
    with pytest.raises(RequestError, match="in about 30 seconds"):
        put(queue)


def test_a_call_that_waits_is_answered_less_often_than_one_that_runs(queue, monkeypatch):
    monkeypatch.setattr(script_api, "TICK", 0.01)
    monkeypatch.setattr(script_api, "WAITING_TICK", 0.3)
    job = put(queue)
    answers = script_api.Api(SimpleNamespace(abandon=lambda job: None))._follow(job)
    next(event for event in answers if event is None)
    for started, least, most in ((None, 0.29, 9.0), (0.0, 0.0, 0.29)):
        job.started, begun = started, time.monotonic()
        assert next(answers) is None and least <= time.monotonic() - begun <= most
    answers.close()


def test_who_waits_far_behind_is_told_its_place_less_often(queue, monkeypatch):
    monkeypatch.setattr(jobs, "PROGRESS_GAP", 0.1)
    ahead, job = [put(queue) for _ in range(5)], put(queue)
    events = job.events(tick=0.01)
    assert next(events).position == 5
    for each in ahead[:3]:
        queue.take(0)
        queue.finish(each, Finished({}))
    queue.take(0)
    assert next(events) is None
    time.sleep(0.5)
    assert next(events).position == 2
    queue.finish(ahead[3], Finished({}))
    queue.take(0)
    queue.finish(ahead[4], Finished({}))
    queue.take(0)
    job.tell(Progress(step=1))
    assert next(events).step == 1
