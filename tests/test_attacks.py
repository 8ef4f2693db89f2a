"""Attacks on a served page: each is refused quickly, in words, and others are served meanwhile."""

import asyncio
import functools
import http.client
import io
import json
import logging
import socket
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from conftest import until
from gradio import processing_utils
from gradio.utils import get_upload_folder
from gradio_client import Client
from gradio_client.exceptions import ValidationError
from pages import free_port, gathered, idle, served

from webui.core.request import RequestError
from webui.engine import queue_room
from webui.gradio_ext import connections, failed_events, login_throttle, strokes, unfetched_calls
from webui.gradio_ext.guard import MAX_BODY, MAX_UPLOAD
from webui.gradio_ext.proxies import TrustedProxies

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


@functools.cache
def config_of(page):
    """What a browser is told of a page and all of its tabs."""
    return page.page.default_config.get_config()


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
    with httpx.Client(base_url=locked.url, timeout=20) as one, httpx.Client(base_url=locked.url, timeout=20) as two:
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


def test_guessing_for_one_name_from_many_addresses_is_slowed_down_but_not_for_its_owner():
    scope = {"type": "http", "method": "POST", "path": "/login", "query_string": b""}
    form = [(b"content-type", b"application/x-www-form-urlencoded")]

    async def right(scope, receive, send):
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200 if b"lovelace" in body else 400, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    throttle = login_throttle.LoginThrottle(right, login_throttle.LoginAttempts())

    def login(address, password):
        given, answers = [{"type": "http.request", "body": b"username=ada&password=" + password}], []

        async def receive():
            return given.pop()

        async def send(message):
            answers.append(message)

        asyncio.run(throttle({**scope, "headers": form, "client": (address, 1)}, receive, send))
        return answers[0]["status"]

    assert login("10.0.0.1", b"lovelace") == 200
    assert {login(f"10.0.1.{number}", b"guess") for number in range(20)} == {400}
    assert login("10.0.2.1", b"lovelace") == 429 and login("10.0.0.1", b"lovelace") == 200


def test_nobody_learns_the_endpoints_before_the_login(locked):
    for path in ("/", "/openapi.json", "/gradio_api/openapi.json", "/gradio_api/info", "/docs"):
        answer = httpx.get(locked.url + path, timeout=20)
        assert "txt2img" not in answer.text
    assert "auth_required" in httpx.get(locked.url, timeout=20).text
    answer = post(locked, "/gradio_api/call/nothing", json={"data": []})
    assert answer.status_code == 401
    with httpx.Client(base_url=locked.url, timeout=20) as client:
        client.post("/login", data=dict(zip(("username", "password"), AUTH)))
        assert "txt2img" in client.get("/").text


@pytest.mark.parametrize(
    "path, body, status, said",
    [
        ("call/txt2img", {"data": []}, 422, "prompt"),
        ("call/img2img", {"data": []}, 422, "image"),
        ("call/txt2img", {"data": [0] * 99}, 422, "99"),
        ("call/nothing", {"data": []}, 404, "no endpoint /nothing"),
        ("call/v2/nothing", {}, 404, "no endpoint /nothing"),
        ("call/v2/txt2img", {"words": "a"}, 422, "no argument words"),
        ("call/v2/txt2img", {}, 422, "needs prompt"),
        ("call/v2/catalog", {"data": []}, 422, "no argument data; it has none"),
        ("call/look", {"data": []}, 404, "no endpoint /look"),
        ("call/v2/look", {}, 404, "no endpoint /look"),
        ("queue/join", {"fn_index": 99999, "data": [], "session_hash": "a"}, 404, "reload"),
        ("run/predict", {"fn_index": -1, "data": []}, 404, "reload"),
        ("api/predict", {"fn_index": "x", "data": []}, 404, "reload"),
        ("run/look", {"data": []}, 404, "no endpoint /look"),
        ("run/predict", {"fn_index": 0, "data": [0] * 99}, 422, "not 99"),
        ("component_server", {"component_id": 99999, "fn_name": "x", "session_hash": "a", "data": 0}, 422, "reload"),
        ("component_server", {"component_id": {}, "fn_name": [], "session_hash": "a", "data": 0}, 400, "Invalid"),
    ],
)
def test_a_wrong_call_is_refused_in_words(page, path, body, status, said):
    answer = post(page, f"/gradio_api/{path}", json=body)
    assert answer.status_code == status and said in answer.text


def stroke(page, index="0", kind="layer", content=b"x", name="a"):
    """Send a file of the mask's editor, as its browser part does."""
    config = config_of(page)
    (editor,) = [each["id"] for each in config["components"] if each["props"].get("elem_id") == "img2img-editor"]
    form = dict(component_id=editor, session_hash="a", fn_name="accept_blobs", type=kind, index=index, id=name)
    return editor, post(page, "/gradio_api/component_server", data=form, files={"file": ("x.png", content)})


@pytest.mark.parametrize("index", ["1000000000", "-1", "9" * 5000, "x", "null"])
def test_room_is_made_for_no_number_of_layers(page, index):
    _, answer = stroke(page, index)
    assert answer.status_code == 422 and "no strokes" in answer.text


def test_strokes_are_taken_and_not_kept_for_ever(page, monkeypatch):
    monkeypatch.setattr(strokes, "MOST_BYTES", 3 * MAX_BODY)
    large = bytes(MAX_BODY + 1)
    for name in "abcd":
        editor, answer = stroke(page, content=large, name=name)
        assert answer.status_code == 200
    assert stroke(page, kind="background", content=large, name="e")[1].status_code == 200
    blocks = page.page.blocks[editor]
    assert list(blocks.blob_storage) == ["c", "d"]
    assert strokes.layers_of(blocks, {"id": "d"}) == [large] and strokes.layers_of(blocks, {"id": "d"}) == []
    assert strokes.layers_of(blocks, {"id": []}) == strokes.layers_of(blocks, "x") == []
    for files in (["x"], [{"path": "/etc/passwd"}], [None]):
        with pytest.raises(RequestError, match="must be an uploaded file"):
            strokes.layers_of(blocks, {"id": None, "layers": files})


@pytest.mark.parametrize("value", [7, "x", [], {"path": 3}, [[]], True, {"url": {}, "path": "x"}])
def test_a_value_that_is_no_picture_is_refused_in_words(page, value):
    dependencies = config_of(page)
    image = next(each["id"] for each in dependencies["components"] if each["props"].get("elem_id") == "img2img-image")
    event = next(
        each
        for each in dependencies["dependencies"]
        if image in each["inputs"] and each["backend_fn"] and not each["queue"]
    )
    data = [value if each == image else None for each in event["inputs"]]
    answer = post(page, "/gradio_api/run/predict", json={"fn_index": event["id"], "data": data, "session_hash": "a"})
    assert answer.status_code == 422 and "another form" in answer.text


def events_of(page, name, value):
    """(number of an event, its data with this value) of each that runs without the queue and gets the control's value.

    The browser gathers the values of most events, see `gather`.
    """
    config = config_of(page)
    number = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == name)
    values = {each["id"]: each["props"].get("value") for each in config["components"]} | {number: value}
    sources = gathered(config["dependencies"])
    for each in config["dependencies"]:
        source = sources.get(each["id"], [])
        if each["backend_fn"] and not each["queue"] and number in {*each["inputs"], *source}:
            told = {each["inputs"][0]: [values.get(given) for given in source]} if source else {}
            yield each["id"], [told.get(given, values.get(given)) for given in each["inputs"]]


@pytest.mark.parametrize("value", ["x", ["Euler"], {"a": []}, 3, True])
def test_a_value_that_a_menu_has_not_is_refused_without_a_traceback(page, value, capfd):
    asked = list(events_of(page, "txt2img-sampler", value))
    assert asked
    for event, data in asked:
        answer = post(page, "/gradio_api/run/predict", json={"fn_index": event, "data": data, "session_hash": "a"})
        assert answer.status_code in (200, 422) and "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("told", [None, "x", 3, [], {}, {"index": 0}])
def test_an_event_that_does_not_say_what_it_is_about_is_refused(page, told):
    config = config_of(page)
    events = [each for each in config["dependencies"] if each["collects_event_data"]]
    assert len(events) > 2
    for event in events:
        data = [None for _ in event["inputs"]]
        body = {"fn_index": event["id"], "data": data, "session_hash": "a", "event_data": told}
        answer = post(page, "/gradio_api/run/predict", json=body)
        assert answer.status_code == 422 and "what it is about" in answer.text


def test_an_event_that_the_browser_runs_alone_is_none_for_the_server(page):
    dependencies = config_of(page)["dependencies"]
    number = next(each["id"] for each in dependencies if not each["backend_fn"])
    for path in ("queue/join", "run/predict"):
        answer = post(page, f"/gradio_api/{path}", json={"fn_index": number, "data": [], "session_hash": "a"})
        assert answer.status_code == 404 and "in the browser alone" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["queue/join", "cancel", "reset", "run/predict", "call/txt2img"])
def test_a_form_in_place_of_json_is_refused_in_words(page, path):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = post(page, f"/gradio_api/{path}", content=b"\xff\xfe", headers=headers)
    assert answer.status_code == 422 and "not JSON" in answer.text


@pytest.mark.parametrize("path", ["queue/data?session_hash=nobody", "call/txt2img/nothing", "call/%ff/x"])
def test_a_stream_that_does_not_exist_says_so_and_ends(page, path, caplog):
    answer = httpx.get(f"{page.url}/gradio_api/{path}", timeout=20)
    assert answer.status_code == 200 and "There is no such call" in answer.text
    assert not caplog.records


UPLOADED = {"meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    "file, said",
    [
        ({"path": "/etc/passwd"}, "not uploaded"),
        ({"path": "\0"}, "not uploaded"),
        ({"path": "a" * 5000}, "not uploaded"),
        ({"path": "{folder}/gone.png"}, "upload it again"),
        ({"path": "{folder}"}, "upload it again"),
        ({"path": "{folder}/x.png", "size": "a"}, "wrong 'size'"),
    ],
)
def test_a_file_that_is_no_upload_is_refused_in_words(page, file, said):
    given = UPLOADED | file | {"path": file["path"].replace("{folder}", get_upload_folder())}
    answer = post(page, "/gradio_api/call/img2img", json={"data": [given, "a"]})
    assert answer.status_code == 422 and said in answer.json()["detail"][0]["message"]


def test_an_error_of_the_program_has_words_and_no_details():
    def answered(path, kind, status, body):
        async def app(scope, receive, send):
            headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        sent = []

        async def send(message):
            sent.append(message)

        asyncio.run(failed_events.FailedEvents(app)({"type": "http", "path": path}, None, send))
        assert dict(sent[0]["headers"])[b"content-length"] == b"%d" % len(sent[1]["body"]) or status == 200
        return sent[1]["body"]

    run, stream = ("/gradio_api/run/x", b"application/json", 500), ("/gradio_api/queue/data", b"text/event-stream", 200)
    assert json.loads(answered(*run, b'{"error":null}')) == {"error": failed_events.TEXT}
    assert answered(*run, b'{"error":"Steps is 0"}') == b'{"error":"Steps is 0"}'
    message = b'data: {"msg":"process_completed","output":{"error":null},"success":false}\n\n'
    assert failed_events.TEXT.encode() in answered(*stream, message)
    assert failed_events.TEXT.encode() in answered(*stream, b'event: error\ndata: {"error": null}\n\n')
    message = b'data: {"msg":"process_completed","output":{"data":[{"error":null}]},"success":true}\n\n'
    assert answered(*stream, message) == message


def test_arguments_left_out_have_their_defaults(page):
    event = post(page, "/gradio_api/call/txt2img", json={"data": ["a", "", "Euler", "", 3]}).json()["event_id"]
    answer = httpx.get(f"{page.url}/gradio_api/call/txt2img/{event}", timeout=20).text
    assert "event: complete" in answer and '"steps": 3' in answer


def test_a_full_queue_tells_scripts_when_to_come_back(page, monkeypatch):
    monkeypatch.setattr(queue_room, "MAX_WAITING", 0)
    answer = post(page, "/gradio_api/call/txt2img", json={"data": ["a"]})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    assert "Try again in about" in answer.json()["detail"]
    assert post(page, "/gradio_api/call/catalog", json={"data": []}).status_code == 200


def test_connections_that_send_nothing_lock_nobody_out(page, monkeypatch):
    monkeypatch.setattr(connections, "PATIENCE", 0.5)
    address = urlsplit(page.url)
    half = [socket.create_connection((address.hostname, address.port)) for _ in range(50)]
    for each in half[::2]:
        each.send(b"GET / HTTP/1.1\r\nHost: x")
    assert httpx.get(page.url, timeout=10).status_code == 200
    begun = time.monotonic()
    for each in half:
        each.settimeout(10)
        assert closed(each)
    assert time.monotonic() - begun < 8


def closed(connection):
    with connection:
        try:
            return connection.recv(1) == b""
        except ConnectionResetError:
            return True


def test_a_stream_without_an_end_does_not_keep_the_server(monkeypatch):
    async def endless(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while (await receive())["type"] != "http.disconnect":
                await send({"type": "http.response.body", "body": b"more", "more_body": True})

    monkeypatch.setattr(connections, "FAREWELL", 0.1)
    server = uvicorn.Server(uvicorn.Config(endless, port=free_port(), lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    connections.watch_connections(server)
    with socket.create_connection(("127.0.0.1", server.config.port)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4)
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def test_of_too_many_connections_those_that_wait_longest_are_closed():
    def connection(cycle):
        transport = SimpleNamespace(ended=False)
        transport.abort = lambda: setattr(transport, "ended", True)
        return type("Connection", (), dict(cycle=cycle, transport=transport))()

    answered = [connection(SimpleNamespace(response_complete=False, more_body=False)) for _ in range(5)]
    first, second, third = (connection(None) for _ in range(3))
    watch = connections.ConnectionWatch(6)
    watch.look({*answered, first})
    watch.look({*answered, first, second, third})
    assert first.transport.ended and not any(each.transport.ended for each in answered)
    assert [second.transport.ended, third.transport.ended].count(True) == 1
    kept, watch = connection(SimpleNamespace(response_complete=True)), connections.ConnectionWatch(2)
    watch.look({kept})
    watch.look({kept, second, third})
    assert not kept.transport.ended


def test_equal_lines_do_not_fill_the_log():
    filter, other = connections.RepeatedLines(), logging.makeLogRecord({"msg": "other"})
    line = logging.makeLogRecord({"msg": "Invalid HTTP request received."})
    assert sum(filter.filter(line) for _ in range(1000)) == connections.LINES and filter.filter(other)


def test_tracebacks_do_not_fill_the_console(monkeypatch):
    monkeypatch.setattr(connections, "CHARACTERS", 20)
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: clock.now))
    stream = io.StringIO()
    limited = connections.LimitedText(stream)
    for _ in range(3):
        limited.write("Traceback\n")
    assert stream.getvalue() == "Traceback\n" * 2
    clock.now += 61
    limited.write("again\n")
    assert stream.getvalue().endswith("(10 characters were left out here)\nagain\n") and not limited.closed


FORWARDED = {"X-Forwarded-Host": "evil.example", "X-Forwarded-For": "1.2.3.4", "X-Gradio-Server": "http://evil.example"}


def test_forwarded_headers_of_strangers_do_not_count(page):
    answer = httpx.get(f"{page.url}/config", headers=FORWARDED, timeout=20)
    assert answer.status_code == 200 and "evil" not in answer.text


def test_forwarded_headers_of_a_trusted_proxy_count():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)

    headers = [(b"host", b"127.0.0.1"), (b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-proto", b"https")]
    proxies = TrustedProxies(app, ["10.0.0.0/8"])
    for client in ("10.1.2.3", "127.0.0.1"):
        scope = {"type": "http", "scheme": "http", "client": (client, 1), "headers": headers}
        asyncio.run(proxies(scope, None, None))
    trusted, stranger = seen
    assert trusted["client"][0] == "1.2.3.4" and trusted["scheme"] == "https" and len(trusted["headers"]) == 3
    assert stranger["client"][0] == "127.0.0.1" and stranger["scheme"] == "http" and len(stranger["headers"]) == 1


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
    assert httpx.get(page.url, headers=headers, timeout=20).status_code == 400


def start(page, steps, path="call/txt2img", **more):
    """The id of a call that takes 0.1 s a step."""
    page.pace.seconds = 0.1
    given = ["a", "", "DDIM", "", steps, 5.0, 0, 0, -1, 1, {}, "", {}, 1, 0.0, 0.0, 0.0]
    return post(page, f"/gradio_api/{path}", json={"data": given, **more}).json()["event_id"]


def test_a_call_that_nobody_fetches_is_ended(page, monkeypatch):
    monkeypatch.setattr(unfetched_calls, "SECONDS", 0.3)
    start(page, 600)
    until(lambda: page.pace.calls)
    idle(page.engine, 30)
    page.pace.fast()


def test_a_call_that_is_fetched_goes_on(page, monkeypatch):
    monkeypatch.setattr(unfetched_calls, "SECONDS", 1.0)
    event = start(page, 14)
    answer = httpx.get(f"{page.url}/gradio_api/call/txt2img/{event}", timeout=20).text
    page.pace.fast()
    assert "event: complete" in answer and "nfe" in answer


def test_what_an_open_page_asks_for_goes_on_however_late_it_listens(page, monkeypatch):
    monkeypatch.setattr(unfetched_calls, "SECONDS", 0.1)
    monkeypatch.setattr(unfetched_calls, "MOMENT", 0.1)
    index = next(each._id for each in page.page.fns.values() if each.api_name == "txt2img")
    late, api = {"session_hash": "late"}, f"{page.url}/gradio_api"
    with httpx.stream("GET", f"{api}/heartbeat/late", timeout=20):
        start(page, 8, "queue/join", fn_index=index, **late)
        time.sleep(0.5)
        page.pace.fast()
        answer = httpx.get(f"{api}/queue/data", params=late, timeout=20).text
    assert "process_completed" in answer and "nfe" in answer
