"""Plugins are loaded anew while the program runs: at once, alone, and without touching what was begun before."""

import os
import textwrap
import time

import pytest
from conftest import ROOT, ToyModel, toy, until
from pages import served
from test_browser import DESKTOP, browser, choose, expect, option, ready, unfold  # noqa: F401

from samplers.registry import discover
from webui.core.picture_metadata import read_picture
from webui.core.request import Request
from webui.engine.engine import Engine
from webui.engine.events import Finished
from webui.engine.plugin_reloading import PluginWatch, find_plugins
from webui.gradio_ext.option_rows import control, placed
from webui.settings import Settings
from webui.tabs.plugins import reload_text

WALK = """
    from itertools import pairwise
    from typing import Annotated
    from samplers import Range, Step, hookimpl, sampler

    @sampler("{name}", version="{version}")
    def walk(denoise, x, sigmas, noise{options}):
        for sigma, lower in pairwise(sigmas):
            denoised = denoise(x, sigma)
            x = denoised + {share} * lower / sigma * (x - denoised)
            yield Step(x, lower, denoised)

    @hookimpl
    def register_samplers():
        return [walk]
"""


def walk(name="Walk", version="1", share=1, options=""):
    return textwrap.dedent(WALK.format(name=name, version=version, share=share, options=options))


def write(file, text):
    """With one time stamp for all that a second sees, as many disks give."""
    file.write_text(text, "utf-8")
    os.utime(file, (1_000_000_000, 1_000_000_000))


@pytest.fixture
def settings(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    return Settings(root=ROOT, plugin_folders=(folder,), plugin_packages=False, outputs=tmp_path / "out", model="toy")


@pytest.fixture
def file(settings):
    (folder,) = settings.plugin_folders
    write(folder / "walk.py", walk(version="1"))
    return folder / "walk.py"


def test_what_has_changed_is_read_anew_and_nothing_else(settings, file):
    before = find_plugins(settings)
    # Of the same length and time, which compiled files do not tell apart.
    write(file, walk(version="2"))
    now = find_plugins(settings, before)
    assert now.sampler("Walk").version == "2" and now.sampler("Walk").digest != before.sampler("Walk").digest
    assert now.sampler("Euler") is before.sampler("Euler")
    assert find_plugins(settings, now).loaded == now.loaded
    assert "Loaded: mine/walk.py." in reload_text(before, now)


def test_the_files_of_a_folder_are_read_anew(settings, file):
    folder = file.parent / "both"
    folder.mkdir()
    write(folder / "__init__.py", "from .parts import register_samplers\n")
    write(folder / "parts.py", walk("Part", version="1"))
    before = find_plugins(settings)
    write(folder / "parts.py", walk("Part", version="2"))
    assert find_plugins(settings, before).sampler("Part").version == "2"


def test_a_package_is_read_anew(tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = site / "walks-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: walks\nVersion: 1\n", "utf-8")
    (info / "entry_points.txt").write_text("[sigmalab]\nw = sigmalab_test_walks\n", "utf-8")
    monkeypatch.syspath_prepend(site)
    write(site / "sigmalab_test_walks.py", walk("Packed", share=1))
    before = discover(tmp_path / "nowhere")
    write(site / "sigmalab_test_walks.py", walk("Packed", share=2))
    now = discover(tmp_path / "nowhere", before=before)
    assert now.sampler("Packed").digest != before.sampler("Packed").digest
    assert now.sampler("Packed").item is not before.sampler("Packed").item


def test_a_mistake_leaves_what_worked_in_use_and_is_told(settings, file):
    before = find_plugins(settings)
    write(file, "def broken(:\n")
    for _ in range(2):
        now = find_plugins(settings, before)
        assert now.sampler("Walk") is before.sampler("Walk")
        (broken,) = now.broken
        assert broken.reason.count("; what was loaded before stays in use") == 1 and "SyntaxError" in broken.reason
        before = now
    assert "Not loaded" in reload_text(before, now)
    write(file, walk(version="3"))
    assert find_plugins(settings, now).sampler("Walk").version == "3"


def test_what_is_gone_is_gone_and_its_name_is_free(settings, file):
    write(file.with_name("zz.py"), walk(version="9"))
    before = find_plugins(settings)
    assert before.sampler("Walk").version == "1" and "is taken by mine/walk.py" in str(before.broken)
    file.unlink()
    now = find_plugins(settings, before)
    assert now.sampler("Walk").source == "mine/zz.py" and not now.broken
    assert "Gone: mine/walk.py" in reload_text(before, now)


def test_jobs_end_with_what_they_began_with_and_say_so(settings, file, gate):
    registry = find_plugins(settings)
    engine = Engine(registry, settings, lambda found, device: ToyModel(found, gate), lambda folder: {"toy": toy()})
    engine.start()
    try:
        running, waiting = (engine.submit(Request(prompt=p, sampler="Walk", steps=2, seed=1)) for p in ("ab", "ab"))
        gate.arrived()
        write(file, walk(version="2", share=0))
        engine.reload_plugins()
        after = engine.submit(Request(prompt="ab", sampler="Walk", steps=2, seed=1))
        gate.open()
        jobs = [running, waiting, after]
        assert all(isinstance(job.wait(60), Finished) for job in jobs)
        records = [read_picture(job.pictures[0].path).record for job in jobs]
    finally:
        engine.close()
    old, new = registry.sampler("Walk"), engine.registry.sampler("Walk")
    assert [record.sampler.digest for record in records] == [old.digest, old.digest, new.digest]
    assert records[0].pixels == records[1].pixels != records[2].pixels
    assert engine.reloads == 1


def test_a_watch_loads_what_is_written_within_two_seconds(settings, file):
    engine = Engine(find_plugins(settings), settings, find_models=lambda folder: {"toy": toy()})
    PluginWatch(settings, engine.queue, engine.reload_plugins).start()
    try:
        time.sleep(0.1)
        file.write_text(walk("Renamed", version="2"), "utf-8")
        until(lambda: "Renamed" in engine.registry.samplers, 20)
        assert "Walk" not in engine.registry.samplers
    finally:
        engine.close()


def test_an_option_without_a_control_is_left_out_and_takes_no_other_s(settings, file):
    write(file, walk(options=", *, a: bool = True, b: Annotated[float, Range(0, 1)] = 0.5"))
    first, second = find_plugins(settings).sampler("Walk").item.options
    assert placed([first, second], [control(first)]) == {0: first}
    assert placed([second, first], [control(first)]) == {}


@pytest.mark.browser
def test_an_open_page_shows_what_was_written(settings, file, tmp_path, browser):  # noqa: F811
    found = find_plugins(settings)
    more = dict(reload=True, plugin_folders=settings.plugin_folders)
    with served(found, tmp_path, page_settings=more | dict(plugin_packages=False)) as server:
        (tmp_path / "plugins").symlink_to(ROOT / "plugins")
        PluginWatch(server.engine.settings, server.engine.queue, server.engine.reload_plugins).start()
        page = browser.new_context(viewport=DESKTOP).new_page()
        page.goto(server.url)
        ready(page)
        unfold(page)
        page.locator("#txt2img-prompt textarea").fill("a cat")
        choose(page, "#txt2img-sampler", "Walk (yours)")
        write(file, walk(options=", *, gain: Annotated[float, Range(0, 1)] = 0.25"))
        expect(option(page, "Gain")).to_have_value("0.25")
        expect(page.locator("#txt2img-sampler input")).to_have_value("Walk (yours)")
        expect(page.locator("#txt2img-prompt textarea")).to_have_value("a cat")
        write(file.with_name("second.py"), walk("Second walk"))
        choose(page, "#txt2img-sampler", "Second walk (yours)")
        page.get_by_role("tab", name="Plugins", exact=True).click()
        expect(page.locator("#plugins")).to_contain_text("Second walk")
        file.unlink()
        expect(page.locator("#plugins")).not_to_contain_text("mine/walk.py")
        page.context.close()
