"""Attacks on a served page: each is refused quickly, in words, and others are served meanwhile."""

import http.client
import json
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import until
from gradio import processing_utils
from gradio_client import Client
from gradio_client.exceptions import ValidationError
from pages import idle, served

from webui.gradio_ext import login_throttle, unfetched_calls
from webui.gradio_ext.guard import MAX_BODY, MAX_UPLOAD

AUTH = ("ada", "lovelace")


@pytest.fixture(scope="module")
def page(registry, tmp_path_factory):
    with served(registry, tmp_path_factory.mktemp("open")) as page:
        yield page


@pytest.fixture(scope="module")
def locked(registry, tmp_path_factory):
    with served(registry, tmp_path_factory.mktemp("locked"), auth=AUTH) as page:
        yield page


def streamed(body: bytes):
    """A body of unknown length, as a client sends it in chunks."""
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


def post(page, path, **more):
    return httpx.post(page.url + path, timeout=20, **more)


LARGE = json.dumps({"data": [0] * (MAX_BODY // 2), "session_hash": "a", "fn_index": 0, "event_id": "a"}).encode()
FORM = b'--x\r\nContent-Disposition: form-data; name="username"; filename="a"\r\n\r\n' + LARGE + b"\r\n--x--\r\n"


def announce(page, path, size):
    """The status of the answer to a request that announces a body of this size and sends none of it."""
    connection = http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=20)
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    try:
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["queue/join", "cancel", "call/txt2img", "run/txt2img", "component_server"])
def test_a_large_body_is_refused_before_it_arrives(locked, path):
    assert announce(locked, f"/gradio_api/{path}", MAX_BODY + 1) == 413


def test_a_large_login_is_refused_before_it_arrives(locked):
    assert announce(locked, "/login", MAX_BODY + 1) == 413


def test_many_files_in_one_upload_are_refused_before_they_arrive(locked):
    assert announce(locked, "/gradio_api/upload", MAX_UPLOAD + 1) == 413


def test_an_upload_is_not_read_before_the_login(locked):
    assert announce(locked, "/gradio_api/upload", MAX_UPLOAD) == 401


@pytest.mark.parametrize(
    "path, body, headers",
    [
        ("/gradio_api/queue/join", LARGE, {"Content-Type": "application/json"}),
        ("/gradio_api/cancel", LARGE, {"Content-Type": "application/json"}),
        ("/login", FORM, {"Content-Type": "multipart/form-data; boundary=x"}),
    ],
)
def test_a_large_body_of_unknown_length_is_not_parsed(locked, path, body, headers):
    assert post(locked, path, content=streamed(body), headers=headers).status_code == 413


def test_signing_out_ends_the_own_session_only(locked):
    with httpx.Client(base_url=locked.url) as one, httpx.Client(base_url=locked.url) as two:
        for each in (one, two):
            assert each.post("/login", data=dict(zip(("username", "password"), AUTH))).status_code == 200
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert one.get("/logout", headers=link).status_code == 403 and one.get("/config").status_code == 200
        assert one.get("/logout?all_session=true").status_code == 302
        assert one.get("/config").status_code == 401 and two.get("/config").status_code == 200


def test_guessing_the_login_is_slowed_down(locked, monkeypatch):
    clock = SimpleNamespace(now=time.monotonic() + 100)
    monkeypatch.setattr(login_throttle, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def login(password):
        return post(locked, "/login", data={"username": AUTH[0], "password": password})

    assert login(AUTH[1]).status_code == 200
    assert [login("guess").status_code for _ in range(7)] == [400] * 5 + [429] * 2
    answer = login(AUTH[1])
    assert answer.status_code == 429 and "try again in 1 seconds" in answer.json()["detail"]
    clock.now += 1.5
    assert login("guess").status_code == 400 and login("guess").status_code == 429
    clock.now += 2.5
    assert [login(password).status_code for password in (AUTH[1], "guess", AUTH[1])] == [200, 400, 200]


ADDRESS = b'{"data": [[{"image": {"path": "http://nowhere.invalid/x.png", "meta": {"_type": "gradio.FileData"}}}]]}'


@pytest.mark.parametrize(
    "body, said",
    [
        (ADDRESS, "by its address"),
        (ADDRESS.replace(b"http", b"\\u0068ttps"), "by its address"),
        (b'{"data": [{"path": "x", "meta": []}]}', "'meta'"),
        (b'{"data": [NaN]}', "NaN"),
        (b'{"data": [-Infinity]}', "Infinity"),
        (b'{"data": [1e999]}', "too large"),
        (b'{"data": ["\\ud800"]}', "surrogate"),
        (b'{"data": [{"\\udfff": 0}]}', "surrogate"),
        (b"[" * 200 + b"]" * 200, "nested"),
        (b"[" * 100_000, "nested"),
        (b'{"data": [' + b"9" * 5000 + b"]}", "not JSON"),
        (b'{"data": ["\xff"]}', "not JSON"),
        (b"{", "not JSON"),
    ],
)
def test_a_body_that_gradio_would_fail_on_is_refused_in_words(page, body, said):
    for path in ("call/txt2img", "queue/join"):
        answer = post(page, f"/gradio_api/{path}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422 and said in answer.json()["detail"][0]["message"]


def test_an_address_is_never_looked_up(page, monkeypatch):
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_get", None)
    body = {"data": [{"path": "http://nowhere.invalid/x.png", "meta": {"_type": "gradio.FileData"}}, "a"]}
    client = Client(page.url, download_files=False, verbose=False, analytics_enabled=False)
    with pytest.raises(ValidationError, match="by its address"):
        client.predict(*body["data"], api_name="/img2img")


@pytest.mark.parametrize("headers", [{"Host": "["}, {"Host": "[::1"}, {"Origin": "http://[x"}, {"Origin": "http://["}])
def test_malformed_headers_are_refused(page, headers):
    assert httpx.get(page.url, headers=headers).status_code == 400


def start(page, steps):
    """The id of a call that takes 0.1 s a step."""
    page.pace.seconds = 0.1
    given = ["a", "", "DDIM", "", steps, 5.0, 0, 0, -1, 1, {}, "", {}, 1, 0.0, 0.0, 0.0]
    return post(page, "/gradio_api/call/txt2img", json={"data": given}).json()["event_id"]


def test_a_call_that_nobody_fetches_is_ended(page, monkeypatch):
    monkeypatch.setattr(unfetched_calls, "SECONDS", 1.0)
    start(page, 600)
    until(lambda: page.pace.calls)
    idle(page.engine, 30)
    page.pace.fast()


def test_a_call_that_is_fetched_goes_on(page, monkeypatch):
    monkeypatch.setattr(unfetched_calls, "SECONDS", 2.0)
    event = start(page, 30)
    answer = httpx.get(f"{page.url}/gradio_api/call/txt2img/{event}", timeout=20).text
    page.pace.fast()
    assert "event: complete" in answer and "nfe" in answer
