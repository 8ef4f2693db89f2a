"""Calls with odd paths, bodies and values, and events of the page with odd values, as a browser sends them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from .server import Page

THREADS, ROUND = 8, 200  # requests at once; cases between two looks at the clock
SOON = 1.0  # seconds that the answer of an event is listened to
Found = Iterator[tuple[int, list[str], dict[str, float]]]

FILE = {"path": "x", "meta": {"_type": "gradio.FileData"}}
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 1e308, 2**70, "", "x", "\0", "é" * 5000, "../../etc/passwd", "<script>", "1-9:0.0001"),
    *([], {}, [["a"]], {"a": []}, ["Euler"], [[[[]]]], [None] * 300, {"a": {"b": {"c": 1}}}, "9" * 5000, "((((" * 200),
    *({"path": "/etc/passwd"}, {"path": "http://127.0.0.1/x.png"}, FILE, [FILE], {"image": FILE, "caption": None}),
    *({"background": FILE, "layers": [FILE], "composite": None}, {"meta": []}, "<lora:x:1e999>", "1..1e9 +1e-9"),
)
BODIES = (
    *(
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b'{"data": [NaN]}',
        b'{"data": ["\\ud800"]}',
        b"[" * 5000,
        b'{"data": 1}',
    ),
    *(
        b"\xff\xfe",
        b'{"data": [1e999]}',
        b'{"data": {}}',
        b'{"data": [' + b"0," * 5000 + b"0]}",
        b"--x\r\n\r\n--x--\r\n",
    ),
)
KINDS = (
    "application/json",
    "application/json",
    "application/json",
    "multipart/form-data; boundary=x",
    "text/plain",
    "",
)
POSTS = ("call/{}", "call/v2/{}", "queue/join", "run/{}", "api/{}", "cancel", "reset", "component_server", "upload")
GETS = (
    *("call/{}/{}", "queue/data?session_hash={}", "file={}", "file/{}", "heartbeat/{}", "upload_progress?upload_id={}"),
    *("stream/{}/1/1/playlist.m3u8", "custom_component/{}/x/component/style.css", "info?{}", "proxy={}", "nothing/{}"),
)
NAMES = (
    "nothing",
    "%00",
    "a" * 300,
    "..%2f..%2fetc%2fpasswd",
    "/etc/passwd",
    "http://127.0.0.1:1/",
    "é",
    "%ff",
    "[",
    "predict",
)
SILENT, CAUGHT = ('"error": null', '"error":null'), "an error of its own"


def whole_page(page: Page) -> dict[str, Any]:
    """The page's configuration with all tabs, as a browser has it that has opened each."""
    config = page.client.get("/config").json()
    for event in [each for each in config["dependencies"] if each["api_visibility"] == "undocumented"]:
        asked = dict(data=[], fn_index=event["id"], session_hash="all tabs")
        content = page.client.post("/gradio_api/run/predict", json=asked).json()["render_config"]
        for part in ("components", "dependencies"):
            known = {each["id"] for each in config[part]}
            config[part] += [each for each in content[part] if each["id"] not in known]
    return config


def requests(page: Page, numbers: range) -> Found:
    """API requests of every kind: of a call that begins, every third is followed to its end."""
    config = whole_page(page)
    known = page.client.get("/gradio_api/info").json()["named_endpoints"]
    events = [each["id"] for each in config["dependencies"]]

    def one(number: int) -> list[str]:
        chance = page.chance("requests", number)
        name = chance.choice([*(each.strip("/") for each in known), *NAMES])
        if chance.random() < 0.1:
            path = chance.choice(GETS).format(chance.choice(NAMES), chance.choice(NAMES))
            return judge(number, path, b"", *_get(page, path))
        path = chance.choice(POSTS).format(name)
        if chance.random() < 0.2:
            body, kind = chance.choice(BODIES), chance.choice(KINDS)
        else:
            kind, parameters = "application/json", known.get(f"/{name}", {}).get("parameters", [])
            content = _by_name(parameters, chance) if "v2" in path else _by_place(parameters, chance)
            if "v2" not in path or chance.random() < 0.2:
                content |= dict(fn_index=chance.choice([*events, -1, "x", None]), session_hash=f"s{number}")
                content |= dict(event_id="e", component_id=chance.choice(ODD), fn_name=chance.choice(ODD))
            body = json.dumps(content).encode()
        status, text = _post(page, path, body, kind)
        told = judge(number, path, body, status, text)
        if status == 200 and path.startswith("call/") and number % 3 == 0:
            answer = page.outcome(name, json.loads(text)["event_id"], 20.0)
            told += judge(number, f"{path}, its answer", body, 200, answer)
        return told

    yield from _all(page, numbers, one)


def events(page: Page, numbers: range) -> Found:
    """Events of the page: the values that the page has, and odd ones in a place or two, or in all of them."""
    config = whole_page(page)
    values = {each["id"]: each.get("props", {}).get("value") for each in config["components"]}
    dependencies = config["dependencies"]

    def one(number: int) -> list[str]:
        chance = page.chance("events", number)
        event = chance.choice(dependencies)
        data = [values.get(each) for each in event["inputs"]]
        share = chance.choice([0.0, 0.1, 0.1, 0.3, 1.0])
        data = [chance.choice(ODD) if chance.random() < share else each for each in data]
        if data and share:
            data[chance.randrange(len(data))] = chance.choice(ODD)
        session = f"events-{page.seed}-{number}"
        content = dict(data=data, fn_index=event["id"], session_hash=session, trigger_id=None)
        content["event_data"] = chance.choice(ODD) if event["collects_event_data"] else None
        body, path = json.dumps(content).encode(), "queue/join" if event["queue"] else "run/predict"
        status, text = _post(page, path, body, "application/json")
        told = judge(number, path, body, status, text)
        if status == 200 and path == "queue/join":
            stream = f"/gradio_api/queue/data?session_hash={session}"
            told += judge(number, path, body, 200, page.listen(stream, ("process_completed",), SOON))
        return told

    yield from _all(page, numbers, one)


def _all(page: Page, numbers: range, one: Callable[[int], list[str]]) -> Found:
    """Try all cases, some at once; at each look, what was found and measured."""
    # What opening the model and drawing once takes is no growth.
    page.draw(prompt="red apple", steps=1)
    before = page.peak_memory()
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(numbers.start, numbers.stop, ROUND):
            cases = range(first, min(first + ROUND, numbers.stop))
            measured: dict[str, float] = {}
            with page.others(measured):
                findings = [each for told in pool.map(one, cases) for each in told]
            if not page.process.is_alive():
                yield len(cases), [*findings, f"cases {cases}: the page ended"], measured
                return
            measured["more memory, MB"] = page.peak_memory() - before
            yield len(cases), findings, measured


def judge(number: int, path: str, body: bytes, status: int, text: str) -> list[str]:
    """What is wrong with an answer; nothing for one that is as it should be."""
    why = ""
    # A program's error is told in words, but scripts should cause none. Values that no page sends may.
    if status == 0 or (status >= 500 and '"error":' not in text) or (CAUGHT in text and "/predict" not in path):
        why = "an error of the server" if status else "no answer"
    elif "Traceback" in text or 'File "/' in text:
        why = "a traceback"
    elif any(each in text for each in SILENT) or (status >= 400 and len(text) < 5):
        why = "no words"
    return [f"case {number}: {why}: {path} {body[:300]!r}: {status} {text[-200:]!r}"] if why else []


def _by_place(parameters: list[dict], chance: random.Random) -> dict[str, Any]:
    if not parameters or chance.random() < 0.4:
        return {"data": [chance.choice(ODD) for _ in range(chance.randrange(30))]}
    values = [_usual(each) for each in parameters]
    for _ in range(chance.randrange(3)):
        values[chance.randrange(len(values))] = chance.choice(ODD)
    return {"data": values[: chance.choice([len(values), chance.randrange(len(values) + 1)])]}


def _by_name(parameters: list[dict], chance: random.Random) -> dict[str, Any]:
    values = {each["parameter_name"]: _usual(each) for each in parameters}
    for _ in range(chance.randrange(4)):
        values[chance.choice([*values, "words", ""])] = chance.choice(ODD)
    return values


def _usual(parameter: dict) -> Any:
    """A value that is right, and cheap to draw."""
    cheap = {"prompt": "red apple", "steps": 1, "count": 1, "image": FILE}
    return cheap.get(parameter["parameter_name"], parameter.get("parameter_default"))


def _post(page: Page, path: str, body: bytes, kind: str) -> tuple[int, str]:
    """(status, text) of the answer; status 0 if there was none."""
    try:
        headers = {"Content-Type": kind} if kind else {}
        answer = page.client.post(f"/gradio_api/{path}", content=body, headers=headers)
        return answer.status_code, answer.text
    except httpx.HTTPError as error:
        return 0, repr(error)


def _get(page: Page, path: str) -> tuple[int, str]:
    """(status, text) of an answer that may never end; status 0 if there was none."""
    try:
        with page.client.stream("GET", f"/gradio_api/{path}", timeout=httpx.Timeout(60, read=1.0)) as answer:
            try:
                return answer.status_code, answer.read().decode("utf-8", "replace")
            except httpx.ReadTimeout:
                return answer.status_code, "goes on"
    except httpx.ReadTimeout:
        # Such a stream has not even begun: it waits for an event that does not exist.
        return 200, "waits"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return 0 if isinstance(error, httpx.HTTPError) else 400, repr(error)
