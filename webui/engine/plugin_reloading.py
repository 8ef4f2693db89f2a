"""Find the plugins that the settings name, and load them anew when their files change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from samplers.registry import Registry, discover
from samplers.sources import packages, sources

from .job_queue import JobQueue

if TYPE_CHECKING:
    from webui.settings import Settings

LOOK = 0.5  # seconds between two looks at the files

log = logging.getLogger(__name__)


def find_plugins(settings: Settings, before: Registry | None = None) -> Registry:
    """The plugins of these settings; `before` is an earlier result, see `samplers.registry.discover`."""
    folder = settings.root / "plugins"
    return discover(folder, settings.plugin_folders, settings.plugin_packages, before=before)


class PluginWatch:
    """A thread that calls `reload` when a file of a plugin has changed, come or gone; it ends with the queue."""

    def __init__(self, settings: Settings, queue: JobQueue, reload: Callable[[], None]):
        self._settings, self._queue, self._reload = settings, queue, reload
        # Looking for installed packages reads the metadata of all.
        self._packages = list(packages()) if settings.plugin_packages else []
        self._thread = threading.Thread(target=self._watch, name="sigmalab-plugins", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _watch(self) -> None:
        before: dict[Path, tuple[int, int]] = {}
        while not self._queue.closed:
            time.sleep(LOOK)
            try:
                now = self._stamps()
                if now != before:
                    before = now
                    self._reload()
            # What a plugin does is no end of the watch.
            except BaseException:
                log.exception("plugins could not be loaded anew")

    def _stamps(self) -> dict[Path, tuple[int, int]]:
        """(time of the last change, size) of every file of a plugin."""
        settings, stamps = self._settings, {}
        for source in (*sources(settings.root / "plugins", settings.plugin_folders, False), *self._packages):
            root = source.root()
            for file in [] if root is None else [root] if root.is_file() else root.rglob("*"):
                # A file may go while it is looked at.
                try:
                    found = file.stat()
                except OSError:
                    continue
                if S_ISREG(found.st_mode) and "__pycache__" not in file.parts:
                    stamps[file] = found.st_mtime_ns, found.st_size
        return stamps
