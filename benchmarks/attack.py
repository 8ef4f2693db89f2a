"""Attack a page: fuzzed calls, many clients at once, half-open connections, and `kill -9` at random moments.

    python benchmarks/attack.py [--requests 10000] [--events 5000] [--clients 60] [--kills 100] [--seed 0]

It starts pages of its own on free ports, in a temporary folder, and prints what each attack found: answers by status,
and every finding that should not be (a bare 500, an answer without words, a traceback shown, a picture that is broken
or lost, a client that was not served). The exit status is 0 if nothing was found.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
ODD = (
    *(None, True, -1, 0, 0.5, 1e308, 2**70, "", "x", "\0", "é" * 5000, "../../etc/passwd", "<script>", "1-9:0.0001"),
    *([], {}, [["a"]], {"a": []}, {"path": "/etc/passwd"}, {"path": "http://127.0.0.1/x.png"}, ["Euler"], [[[[]]]]),
)
BODIES = (b"", b"{", b"[]", b"null", b'{"data": [NaN]}', b'{"data": ["\\ud800"]}', b"[" * 5000, b'{"data": 1}')
PATHS = ("call/{}", "call/v2/{}", "queue/join", "run/{}", "cancel", "reset", "component_server", "queue/data")
START, SERVED = 180.0, 600.0  # seconds


@contextmanager
def page(folder: Path, port: int | None = None):
    """A page in a process of its own; (process, address)."""
    port = port or free_port()
    command = [sys.executable, str(ROOT / "launch.py"), "--no-setup", "--no-browser", "--no-plugins"]
    command += ["--port", str(port), "--outputs", str(folder / "outputs")]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "cache"), "NO_COLOR": "1"}
    with open(folder / "console.txt", "ab") as console:
        process = subprocess.Popen(command, stdout=console, stderr=console, env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process)
        yield process, address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(address: str, process: subprocess.Popen) -> None:
    """Until the page answers."""
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(address, timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise SystemExit("the page did not start; see console.txt")


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fuzz(address: str, requests: int, events: int, chance: random.Random) -> list[str]:
    """Calls with odd paths, bodies and values, and events of the page with odd values."""
    config = httpx.get(f"{address}/config", timeout=30).json()
    sizes = {each["id"]: len(each["inputs"]) for each in config["dependencies"]}
    names = [each["api_name"] for each in config["dependencies"] if each["api_visibility"] == "public"]
    statuses, findings = Counter[int](), []

    def one(number: int) -> None:
        path = chance.choice(PATHS).format(chance.choice([*names, "nothing", "%00", "a" * 300]))
        if number >= requests:
            path, event = "queue/join", chance.choice(list(sizes))
            data = [chance.choice(ODD) for _ in range(sizes[event])]
            body = json.dumps({"fn_index": event, "data": data, "session_hash": f"s{number % 50}"}).encode()
        elif chance.random() < 0.2:
            body = chance.choice(BODIES)
        else:
            data = [chance.choice(ODD) for _ in range(chance.randrange(30))]
            fields = dict(data=data, fn_index=chance.choice([*sizes, -1, "x", None]), session_hash="s", event_id="e")
            body = json.dumps(fields).encode()
        try:
            answer = httpx.post(
                f"{address}/gradio_api/{path}", content=body, headers={"Content-Type": "application/json"}, timeout=60
            )
        except httpx.HTTPError as error:
            findings.append(f"{path}: no answer ({error!r})")
            return
        statuses[answer.status_code] += 1
        text = answer.text
        if answer.status_code >= 500 or "Traceback" in text or (answer.status_code >= 400 and len(text) < 5):
            findings.append(f"{path} {body[:150]!r}: {answer.status_code} {text[:100]!r}")
        if answer.status_code == 200 and path.startswith("call/") and number % 10 == 0:
            told = outcome(address, path.removeprefix("call/v2/").removeprefix("call/"), answer.json()["event_id"])
            if "error" in told and '"error": null' in told:
                findings.append(f"{path} {body[:300]!r}: an error without words")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(requests + events)))
    print(f"fuzz: {requests} requests and {events} events, answers {dict(sorted(statuses.items()))}")
    return findings


def outcome(address: str, name: str, event: str) -> str:
    """All that a call answers."""
    try:
        return httpx.get(f"{address}/gradio_api/call/{name}/{event}", timeout=SERVED).text
    except httpx.HTTPError as error:
        return repr(error)


def crowd(address: str, clients: int) -> list[str]:
    """So many clients at once, without trying again: each must get its own seed back."""

    def one(seed: int) -> str:
        data = {"prompt": "red apple", "steps": 2, "seed": seed}
        answer = httpx.post(f"{address}/gradio_api/call/v2/txt2img", json=data, timeout=SERVED)
        if answer.status_code != 200:
            return f"client {seed}: {answer.status_code} {answer.text[:200]}"
        told = outcome(address, "txt2img", answer.json()["event_id"])
        return "" if f'"seeds": [{seed}]' in told else f"client {seed}: {told[-200:]!r}"

    begun = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        findings = [told for told in pool.map(one, range(1, clients + 1)) if told]
    print(f"crowd: {clients - len(findings)} of {clients} served in {time.monotonic() - begun:.0f} s")
    return findings


def half_open(address: str, count: int = 1500) -> list[str]:
    """Connections that send half a request: others must be served meanwhile."""
    port, opened, slowest = int(address.rsplit(":", 1)[1]), [], 0.0
    for number in range(count):
        try:
            opened.append(connection := socket.create_connection(("127.0.0.1", port), timeout=5))
            connection.send(b"GET / HTTP/1.1\r\nHost: 127")
        except OSError:
            pass
        if number % 300 == 299:
            begun = time.monotonic()
            httpx.get(f"{address}/gradio_api/app_id", timeout=30)
            slowest = max(slowest, time.monotonic() - begun)
    for connection in opened:
        connection.close()
    print(f"half-open: {len(opened)} connections, others were answered within {slowest:.2f} s")
    return [f"half-open connections: an answer took {slowest:.1f} s"] if slowest > 5 else []


def kills(folder: Path, count: int, chance: random.Random) -> list[str]:
    """Kill the server at random moments while it draws; then every picture must be whole, and no leftover old."""
    for number in range(count):
        with page(folder) as (process, address):
            data = {"prompt": "red apple", "steps": 2, "count": 8}
            httpx.post(f"{address}/gradio_api/call/v2/txt2img", json=data, timeout=60)
            time.sleep(chance.uniform(0, 8))
            process.kill()
            process.wait()
        print(f"\rkills: {number + 1}", end="", flush=True)
    outputs, findings = folder / "outputs", []
    for left in outputs.glob("*/.*.part"):
        os.utime(left, (0, 0))
    with page(folder):
        findings += [f"leftover {path}" for path in outputs.glob("*/.*.part")]
    pictures = list(outputs.glob("*/*.png"))
    for path in pictures:
        try:
            with Image.open(path) as picture:
                picture.load()
        except (OSError, SyntaxError) as error:
            findings.append(f"{path} is broken: {error}")
    print(f"\rkills: {count}, {len(pictures)} pictures, all of them read")
    return findings


def main() -> int:
    """Run all attacks; the exit status."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in dict(requests=10_000, events=5_000, clients=60, kills=100, seed=0).items():
        flags.add_argument(f"--{name}", type=int, default=number)
    given = flags.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="sigmalab-attack-") as name:
        folder = Path(name)
        with page(folder) as (process, address):
            findings = crowd(address, given.clients) if given.clients else []
            findings += half_open(address) + fuzz(address, given.requests, given.events, chance)
            if process.poll() is not None:
                findings.append("the page ended")
        console = (folder / "console.txt").read_text("utf-8", "replace")
        shown = Counter(line for line in console.splitlines() if line.endswith("Error") or "Error: " in line)
        print(
            f"console: {len(console)} characters",
            *(f"  {times} x {line[:160]}" for line, times in shown.items()),
            sep="\n",
        )
        findings += kills(folder, given.kills, chance) if given.kills else []
    print(*(findings or ["nothing was found"]), sep="\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
