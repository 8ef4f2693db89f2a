"""A page in a process of its own, which an attack may kill, and clients of it."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from webui.app import serve
from webui.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
AUTH = ("ada", "lovelace")
START = 300.0  # seconds that a start may take on a busy machine
SERVED = 600.0  # seconds that a call may take
PROBE = 0.5  # seconds between two requests of somebody else
# What opening the embedded model imports, which takes most of the time until the first picture.
OPENING = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
)


class Page:
    """A page on the embedded model, in a folder of its own: it can be killed and started again.

    A start is a fork of a process that has imported everything, so that a hundred of them are cheap.
    """

    def __init__(self, folder: Path, login: bool, seed: int):
        self.folder, self.seed = folder, seed
        self.outputs, self.console = folder / "outputs", folder / "console.txt"
        self.auth = AUTH if login else None
        self.temporary = folder / "temporary"
        self.address, self.client = "", httpx.Client()
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["benchmarks.attack.server", *OPENING])

    @classmethod
    @contextmanager
    def started(cls, login: bool, seed: int) -> Iterator[Page]:
        """A page that is being served; its folder and it are gone afterwards."""
        folder = Path(tempfile.mkdtemp(prefix="sigmalab-attack-"))
        page = cls(folder, login, seed)
        try:
            page.start()
            yield page
        finally:
            page.end()
            shutil.rmtree(folder, ignore_errors=True)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.temporary.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = Settings(
            root=ROOT,
            port=port,
            auth=self.auth,
            plugin_packages=False,
            outputs=self.outputs,
            weights=ROOT / "weights",
            device="cpu",
            open_browser=False,
        )
        self.process = self._processes.Process(target=_serve, args=(settings, self.console, self.temporary))
        self.process.start()
        self.address = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.address, timeout=60)
        end = time.monotonic() + START
        while True:
            try:
                self.client.get("/gradio_api/app_id")
                break
            except httpx.HTTPError:
                if time.monotonic() > end or not self.process.is_alive():
                    tail = self.console.read_text("utf-8", "replace")[-2000:]
                    raise SystemExit(f"the page did not start:\n{tail}") from None
                time.sleep(0.1)
        if self.auth:
            self.client.post("/login", data=dict(zip(("username", "password"), self.auth, strict=True)))

    def kill(self) -> None:
        """End it as the system does that has no memory left."""
        self.process.kill()
        self.process.join()
        self.client.close()

    def end(self) -> None:
        """End it tidily."""
        self.client.close()
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGTERM)
            self.process.join(30)
        if self.process.is_alive():
            self.process.kill()

    def chance(self, part: str, number: int) -> random.Random:
        """The random numbers of a case."""
        return random.Random(f"{self.seed}/{part}/{number}")

    def draw(self, endpoint: str = "txt2img", **fields: object) -> str:
        """All that a call answers, or why it was refused."""
        try:
            answer = self.client.post(f"/gradio_api/call/v2/{endpoint}", json=fields, timeout=SERVED)
            return answer.text if answer.status_code != 200 else self.outcome(endpoint, answer.json()["event_id"])
        except httpx.HTTPError as error:
            return repr(error)

    def outcome(self, endpoint: str, event: str, seconds: float = SERVED) -> str:
        """All that a call that was begun answers within so many seconds."""
        return self.listen(f"/gradio_api/call/{endpoint}/{event}", ("event: complete", "event: error"), seconds)

    def listen(self, path: str, last: tuple[str, ...], seconds: float) -> str:
        """What a stream says until one of these texts has come, or for so many seconds."""
        told, end = "", time.monotonic() + seconds
        try:
            with self.client.stream("GET", path, timeout=httpx.Timeout(60, read=max(1.0, seconds))) as answer:
                for text in answer.iter_text():
                    told += text
                    if time.monotonic() > end or any(each in told for each in last) and told.endswith("\n\n"):
                        break
        except httpx.TimeoutException:
            pass
        except httpx.HTTPError as error:
            return f"{told}{error!r}"
        return told

    def peak_memory(self) -> float:
        """The most memory that the page has had, in MB; 0 where the system does not say."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return 0.0
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)

    @contextmanager
    def others(self, measured: dict[str, float]) -> Iterator[None]:
        """Somebody else who asks for something all the time; how long the slowest answer takes is measured."""
        over = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=self.address, timeout=120) as other:
                while not over.wait(PROBE):
                    begun = time.monotonic()
                    other.get("/gradio_api/app_id")
                    slowest = max(time.monotonic() - begun, measured.get("others' answers, s", 0.0))
                    measured["others' answers, s"] = slowest

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(120)


def _serve(settings: Settings, console: Path, temporary: Path) -> None:
    """Serve the page in this process, with all that it says in a file."""
    os.environ |= {"GRADIO_TEMP_DIR": str(temporary / "gradio"), "TMPDIR": str(temporary), "NO_COLOR": "1"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    tempfile.tempdir = None
    with open(console, "ab") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    sys.stdin.close()
    serve(settings)
