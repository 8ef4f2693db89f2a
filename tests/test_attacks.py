"""Attacks on a served page: each is refused quickly, in words, and others are served meanwhile."""

import http.client
import json
from urllib.parse import urlsplit

import httpx
import pytest
from pages import served

from webui.gradio_ext.guard import MAX_BODY, MAX_UPLOAD

AUTH = ("ada", "lovelace")


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
