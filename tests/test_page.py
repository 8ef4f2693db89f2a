"""The page as scripts see it: few endpoints, files that really arrive, errors that help, and a server that is shut."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio
import httpx
import pytest
from conftest import ROOT, toy
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from pages import free_port, idle, served
from PIL import Image
from starlette.responses import FileResponse

from samplers import sampler
from samplers.options import NumberOption, TextOption
from samplers.registry import Broken, Entry, Registry, discover
from webui.core.limits import LOCAL
from webui.core.menus import SCHEDULES, sampler_choices, sampler_groups, schedules_in_order
from webui.core.picture_metadata import read_picture
from webui.engine.engine import Engine
from webui.engine.jobs import Job
from webui.gradio_ext.guard import Guard
from webui.gradio_ext.option_rows import control, limits, on_slider, placed, row_for
from webui.page import build_page, choose_token
from webui.settings import Settings
from webui.tabs.form import job_stream
from webui.tabs.form.describe import fitted, paper_link, sampler_note, seconds_text
from webui.tabs.form.form_state import fresh, recall, recall_options
from webui.tabs.form.page_context import Page
from webui.tabs.plugins import measured_text, plugins_html, tab_title


@pytest.fixture(scope="module")
def server(registry, tmp_path_factory):
    with served(registry, tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture
def page(server):
    server.pace.fast()
    yield server
    server.pace.fast()
    idle(server.engine)


@pytest.fixture(scope="module")
def connected(server, tmp_path_factory):
    return connect(server, tmp_path_factory.mktemp("client"))


@pytest.fixture
def client(page, connected):
    """A client that all tests have in turn: each needs most of a second to read what the server offers."""
    return connected


def test_a_watcher_is_told_the_state_once_more_and_then_only_what_is_new(monkeypatch):
    monkeypatch.setattr(job_stream, "LOOK", 0.0)
    left = []
    page = SimpleNamespace(watching=Counter(), engine=SimpleNamespace(abandon=left.append))
    job = Job("", owner="someone")

    async def looks(many):
        watched = job_stream.snapshots(page, job)
        told = [await anext(watched) for _ in range(many)]
        assert page.watching["someone"] == 1
        await watched.aclose()
        return told

    told = asyncio.run(looks(6))
    assert [now is job.snapshot() for now in told] == [True, True, False, False, False, False]
    assert told.count(None) == 4
    assert page.watching["someone"] == 0 and left == [job]


def connect(page, folder):
    return Client(page.url, download_files=str(folder), verbose=False, analytics_enabled=False)


def api(page, path, **more):
    return httpx.request(more.pop("method", "GET"), page.url + path, timeout=20, **more)


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_the_page_is_compressed_and_its_event_streams_are_not(page):
    opened = api(page, "/")
    assert opened.headers["content-encoding"] == "gzip"
    assert int(opened.headers["content-length"]) < len(opened.content) / 4
    event = api(page, "/gradio_api/call/catalog", method="POST", json={"data": []}).json()["event_id"]
    stream = api(page, f"/gradio_api/call/catalog/{event}")
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert "content-encoding" not in stream.headers


def test_the_page_is_written_once_for_each_address_and_configuration(page, monkeypatch):
    blocks, first = page.page, api(page, "/").content
    monkeypatch.setitem(blocks.config, "title", "changed in place")
    assert api(page, "/").content == first
    # The browser finds its files under the address.
    assert "changed in place" in api(page, "/", headers={"host": "localhost"}).text
    assert api(page, "/", headers={"accept-encoding": "identity"}).headers.get("content-encoding") is None
    monkeypatch.setattr(blocks, "config", dict(blocks.config))
    assert "changed in place" in api(page, "/").text


def test_scripts_come_out_of_memory_and_browsers_keep_them(page, monkeypatch):
    (large,) = re.findall(r"/assets/index-[\w-]{8}\.js", api(page, "/").text)
    assets = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
    # What is not compressed here, Gradio compresses.
    small = next(f"/assets/{each.name}" for each in sorted(assets.glob("*.js")) if 600 < each.stat().st_size < 4000)
    first = {path: api(page, path) for path in (large, small)}
    monkeypatch.setattr(FileResponse, "__call__", None)
    for path, answer in first.items():
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-encoding"] in ("gzip", "br")
        assert answer.content == (assets / path.removeprefix("/assets/")).read_bytes()
        for _ in range(3):
            again = api(page, path)
            assert again.content == answer.content
            assert {**again.headers, "date": ""} == {**answer.headers, "date": ""}
    monkeypatch.undo()
    plain = api(page, large, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers and plain.content == first[large].content
    assert api(page, large, headers={"range": "bytes=0-9"}).content == plain.content[:10]
    assert api(page, "/assets/missing-12345678.js").status_code == 404


def test_the_page_names_itself_and_not_gradio(page):
    html = api(page, "/").text
    assert '<meta property="og:title" content="Sigmalab">' in html and html.count("og:title") == 1
    assert "Click to try out the app" not in html and "header-image.jpg" not in html
    # Else page_meta.py can go.
    template = Path(gradio.__file__).parent / "templates" / "frontend" / "index.html"
    assert 'property="og:title" content="Gradio"' in template.read_text("utf-8")


def test_exactly_these_endpoints_are_named(page):
    info = api(page, "/gradio_api/info").json()
    assert (
        set(info["named_endpoints"]) == {"/txt2img", "/img2img", "/upscale", "/schedule", "/catalog"}
        and not info["unnamed_endpoints"]
    )
    names = [parameter["parameter_name"] for parameter in info["named_endpoints"]["/txt2img"]["parameters"]]
    promised = "prompt negative_prompt sampler schedule steps guidance width height seed count options model".split()
    assert names[:12] == promised and names[12] == "schedule_options"
    names = [parameter["parameter_name"] for parameter in info["named_endpoints"]["/img2img"]["parameters"]]
    assert names[:4] == ["image", "prompt", "strength", "strength_as"] and set(promised) < set(names)


def test_a_prompt_alone_is_enough(client, page):
    files, info = client.predict("red apple", api_name="/txt2img")
    assert len(files) == 1 and Path(files[0]).is_relative_to(client.download_files) and files[0].endswith(".png")
    assert {"seeds", "sampler", "schedule", "sigmas", "nfe", "seconds", "model", "options"} <= set(info)
    assert (info["sampler"], info["nfe"], info["model"], len(info["sigmas"]), info["sigmas"][-1]) == (
        "DDIM",
        20,
        "toy",
        21,
        0,
    )
    kept = read_picture(files[0])
    assert (
        kept.record.data["request"]["prompt"] == "red apple" and kept.record.data["image"]["seed"] == info["seeds"][0]
    )
    # The client's file is the saved one, byte for byte, and nothing tells where the server keeps it.
    assert Path(files[0]).read_bytes() in [saved.read_bytes() for saved in page.outputs.rglob("*.png")]
    assert str(page.outputs) not in json.dumps(info)


def test_arguments_reach_the_run(client):
    wanted = dict(sampler="Euler", schedule="Karras", steps=5, guidance=2.0, width=128, height=64, seed=9, count=2)
    files, info = client.predict(
        "a", **wanted, options={"churn": 1.0}, schedule_options={"rho": 5}, api_name="/txt2img"
    )
    assert info["seeds"] == [9, 10] and info["options"]["churn"] == 1.0 and info["schedule_options"]["rho"] == 5
    assert info["schedule"] == "Karras" and info["nfe"] == 5 and [Image.open(f).size for f in files] == [(128, 64)] * 2


def test_the_same_seed_is_the_same_picture(client):
    once, again = (client.predict("a", steps=3, seed=4, api_name="/txt2img")[0][0] for _ in range(2))
    assert Image.open(once).tobytes() == Image.open(again).tobytes()


def test_img2img_takes_an_upload(client, tmp_path):
    Image.new("RGB", (300, 200), "teal").save(tmp_path / "teal.png")
    given = handle_file(str(tmp_path / "teal.png"))
    files, info = client.predict(given, "a pond", api_name="/img2img")
    assert info["nfe"] == 12 and info["strength"] == 0.6 and Image.open(files[0]).size == (64, 64)
    _, info = client.predict(given, "a pond", 0.3, "noise", steps=10, fit="pad", api_name="/img2img")
    assert info["sigmas"][0] == pytest.approx((0.3 / 0.7) ** 0.5)


@pytest.mark.parametrize(
    "image", [{"path": "/etc/passwd"}, "/etc/passwd", {"path": str(ROOT / "launch.py")}, {}, None, {"path": "\0"}]
)
def test_img2img_reads_no_file_that_was_not_uploaded(page, image):
    assert "uploaded file" in raw_call(page, "img2img", [image, "a"])


def raw_call(page, name, data):
    """What the server answers to a call that no well-behaved client sends; `data` goes on with the defaults."""
    parameters = api(page, "/gradio_api/info").json()["named_endpoints"][f"/{name}"]["parameters"]
    data = data + [parameter["parameter_default"] for parameter in parameters[len(data) :]]
    begun = api(
        page,
        f"/gradio_api/call/{name}",
        method="POST",
        content=json.dumps({"data": data}),
        headers={"Content-Type": "application/json"},
    )
    if begun.status_code != 200:
        return begun.text
    return api(page, f"/gradio_api/call/{name}/{begun.json()['event_id']}").text


def test_the_catalog_names_what_can_be_chosen(client, registry):
    catalog = client.predict(api_name="/catalog")
    assert {"DDPM", "DDIM", "Euler", "Flow"} <= {each["name"] for each in catalog["samplers"]}
    assert "Karras" in [each["name"] for each in catalog["schedules"]]
    assert [each["name"] for each in catalog["models"]] == ["toy", "other"] and catalog["broken"] == []
    ddim = next(each for each in catalog["samplers"] if each["name"] == "DDIM")
    assert {"name", "source", "order", "calls", "stochastic", "paper", "options"} <= set(ddim)
    assert ddim["options"][0]["name"] == "eta" and (ddim["options"][0]["low"], ddim["options"][0]["high"]) == (0, 1)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(sampler="Eular"), ["Eular", "DDPM", "DDIM", "Euler", "Flow"]),
        (dict(schedule="Karas"), ["Karas", "Karras"]),
        (dict(model="sdxl"), ["sdxl", "toy", "other"]),
        (dict(options={"etta": 1}), ["etta", "eta"]),
        (dict(options={"eta": 2}), ["eta", "0", "1"]),
        (dict(steps=0), ["Steps", "1", "1000"]),
        (dict(steps=1001), ["Steps", "1000"]),
        (dict(count=65), ["Count", "64"]),
        (dict(width=65), ["Width", "8"]),
        (dict(guidance="NaN"), ["Guidance", "a number from 0 to 30"]),
        (dict(width=2048, height=2048, count=64), ["megapixels"]),
    ],
)
def test_errors_say_what_is_allowed(client, wrong, says):
    with pytest.raises(AppError) as error:
        client.predict("a", **wrong, api_name="/txt2img")
    assert all(part in str(error.value) for part in says), str(error.value)


def test_not_a_number_is_refused(page):
    """JSON has no NaN, but Python's reader and others take it."""
    answer = raw_call(page, "txt2img", ["a", "", "DDIM", "", 20, float("nan")])
    assert "The request is not JSON: NaN is no number that JSON knows." in answer, answer


def test_two_clients_are_served_one_after_the_other(page, tmp_path):
    page.pace.slow_after(2)
    first, second = connect(page, tmp_path / "1"), connect(page, tmp_path / "2")
    one = first.submit("a", steps=12, seed=1, api_name="/txt2img")
    wait_for(lambda: page.engine.queue.running)
    two = second.submit("b", steps=3, seed=2, api_name="/txt2img")
    wait_for(lambda: any(state["state"] == "waiting" and state["position"] == 1 for _, state in two.outputs()))
    page.pace.fast()
    assert one.result()[1]["seeds"] == [1] and two.result()[1]["seeds"] == [2]
    mine = [state for _, state in one.outputs()[:-1] if state["state"] == "running"]
    assert mine and all(state["total_calls"] == 12 for state in mine if state.get("total_calls"))


def test_cancel_frees_the_engine_for_the_next(page, client, tmp_path):
    page.pace.seconds = 0.2
    job = client.submit("a", steps=1000, api_name="/txt2img")
    wait_for(lambda: page.pace.calls and page.engine.queue.running and job.communicator.event_id)
    (running,) = page.engine.queue.running
    job.cancel()
    wait_for(lambda: running.state == "stopped")
    page.pace.seconds = 0.0
    assert connect(page, tmp_path / "next").predict("b", steps=2, api_name="/txt2img")[1]["nfe"] == 2


def test_cancel_takes_a_waiting_job_out_of_the_queue(page, tmp_path):
    page.pace.seconds = 0.2
    first, second = connect(page, tmp_path / "1"), connect(page, tmp_path / "2")
    one = first.submit("a", steps=1000, api_name="/txt2img")
    wait_for(lambda: page.engine.queue.running)
    two = second.submit("b", api_name="/txt2img")
    # The client can cancel what it has been given a name for.
    wait_for(lambda: page.engine.queue.waiting and two.communicator.event_id)
    two.cancel()
    wait_for(lambda: not page.engine.queue.waiting)
    assert page.engine.queue.running[0].state == "running"
    one.cancel()


def test_a_failure_reaches_the_client(page, client, monkeypatch):
    monkeypatch.setattr(
        type(page.pace), "__call__", lambda self, sigma: (_ for _ in ()).throw(RuntimeError("the network broke"))
    )
    with pytest.raises(AppError, match="the network broke"):
        client.predict("a", api_name="/txt2img")


def test_nothing_runs_past_the_queue(page):
    assert api(page, "/gradio_api/run/txt2img", method="POST", json={"data": ["a"]}).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://example.org/x.png",
        "/file=https://example.org",
        "/gradio_api/proxy=http://x/",
        "/gradio_api/FILE=HTTP://x",
    ],
)
def test_the_server_fetches_nothing_for_others(page, path):
    assert api(page, path).status_code == 404


def test_other_sites_and_names_are_refused(page):
    post = dict(method="POST", json={"data": []})
    assert api(page, "/gradio_api/call/catalog", **post, headers={"Origin": "http://evil.example"}).status_code == 403
    assert api(page, "/gradio_api/call/catalog", **post, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert (
        api(page, "/gradio_api/upload", method="POST", files={"files": b"x"}, headers={"Origin": "null"}).status_code
        == 403
    )
    assert api(page, "/", headers={"Host": "evil.example"}).status_code == 400
    assert api(page, "/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert (
        api(page, "/gradio_api/info", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}).status_code
        == 403
    )
    assert api(page, "/gradio_api/call/catalog", **post, headers={"Origin": page.url}).status_code == 200


def test_answers_carry_the_headers_that_keep_the_page_shut(page):
    headers = api(page, "/").headers
    assert (
        "frame-ancestors 'self'" in headers["content-security-policy"]
        and headers["x-content-type-options"] == "nosniff"
    )
    assert headers["referrer-policy"] == "same-origin"


def test_files_of_the_server_are_not_served(page):
    for path in (ROOT / "launch.py", "/etc/passwd", *list(page.outputs.rglob("*.png"))[:1]):
        assert api(page, f"/gradio_api/file={path}").status_code == 403


@pytest.mark.parametrize(
    "host, share, known",
    [
        ("127.0.0.1:1", 0, 1),
        ("[::1]:1", 0, 1),
        ("localhost", 0, 1),
        ("lab.example:80", 0, 1),
        ("x.gradio.live", 0, 0),
        ("x.gradio.live", 1, 1),
        ("gradio.live.evil", 1, 0),
        ("", 1, 0),
    ],
)
def test_hosts_of_the_page(host, share, known):
    assert Guard(None, ("lab.example",), bool(share))._known(host) == bool(known)


def test_a_login_is_asked_for(registry, tmp_path):
    with served(registry, tmp_path, auth=("ada", "lovelace")) as locked:
        assert api(locked, "/config").status_code == 401 and api(locked, "/gradio_api/info").status_code == 401
        assert api(locked, "/login", method="POST", data={"username": "ada", "password": "x"}).status_code == 400
        client = Client(locked.url, auth=("ada", "lovelace"), download_files=str(tmp_path / "client"), verbose=False)
        assert client.predict("a", steps=2, api_name="/txt2img")[1]["nfe"] == 2


def test_a_page_opens_without_any_model(registry, tmp_path):
    engine = Engine(registry, Settings(root=tmp_path, outputs=tmp_path), find_models=lambda folder: {})
    assert build_page(engine).config["title"] == "Sigmalab"


def test_a_new_tab_takes_over_only_what_nobody_watches():
    waiting = SimpleNamespace(owner="last-token-0123456789/txt2img", outcome=None)
    engine = SimpleNamespace(find=lambda owner: waiting if owner == waiting.owner else None)
    page = Page(engine, None, {}, None, None)

    def token(**claims):
        return choose_token(page, json.dumps(claims), ["txt2img", "img2img"])

    last, own = "last-token-0123456789", "own-token-0123456789"
    assert token(tab=own, browser=last) == own and token(tab="", browser=last) == last
    # The tab that saw a job end may still be open, and two tabs must not share one token.
    waiting.outcome = "finished"
    assert token(tab="", browser=last) != last
    waiting.outcome = None
    page.watching[waiting.owner] += 1
    assert token(tab="", browser=last) not in (last, "") and token(tab="", browser=own) != own
    for odd in ("", "[]", "{", "null", '{"tab": 3, "browser": null}', '{"tab": "<b>", "browser": "../"}'):
        assert len(choose_token(page, odd, ["txt2img"])) >= 32


def test_a_form_remembers_only_what_still_fits(registry):
    models = {"toy": toy()}
    kept = dict(
        prompt="a",
        sampler="Gone",
        steps=7,
        guidance=float("nan"),
        width=65,
        height=128,
        seed=-4,
        count=True,
        fit="x",
        strength=[],
    )
    values, start = recall(kept, registry, models, LOCAL), fresh(registry, models["toy"])
    assert (values["prompt"], values["steps"], values["height"]) == ("a", 7, 128)
    rest = set(start) - {"prompt", "steps", "height"}
    assert {name: values[name] for name in rest} == {name: start[name] for name in rest}
    for odd in (None, 3, [], "x", {"sampler": {}}, {"model": ["toy"]}, {"schedule": {}}):
        assert recall(odd, registry, models, LOCAL) == start
    assert recall(kept, registry, {}, LOCAL)["model"] == ""


def test_options_are_remembered_one_by_one(registry):
    kept = {
        "options": {
            "samplers": {"DDIM": {"eta": 0.5}, "Euler": {"churn": "x", "churn_noise": 1.05}, "Gone": {"a": 1}},
            "schedules": 3,
        }
    }
    options = recall_options(kept, registry)
    assert options["samplers"]["DDIM"] == {"eta": 0.5} and options["samplers"]["Euler"]["churn"] == 0.0
    assert options["samplers"]["Euler"]["churn_noise"] == 1.05 and "Gone" not in options["samplers"]
    assert options["schedules"]["Karras"] == {"rho": 7.0}


def test_a_plugins_words_are_only_words():
    @sampler("<img src=x onerror=alert(1)>", paper="<b>", order=lambda: 1 / 0)
    def odd(denoise, x, sigmas, noise):
        yield

    entry = Entry(odd, "<i>", "1")
    registry = Registry({odd.name: entry}, {}, (Broken("<s>", "<u>", "<script>"),))
    for html in (plugins_html(registry), sampler_note(entry, {}), paper_link("<b>"), fitted(None, problem="<b>")):
        assert not any(tag in html for tag in ("<img", "<b>", "<i>", "<s>", "<u>", "<script>"))
    assert "<b>" not in limits(TextOption("a", "", help="<b>x</b>"))["info"]


@pytest.mark.parametrize("side, as_squares", [(128, True), (256, False)])
def test_only_a_small_input_is_shown_as_squares(side, as_squares):
    assert ('class="pixels"' in fitted(b"x", (64, 64), (side, side), "crop")) == as_squares


def test_orders_are_measured_and_checks_are_shown(registry):
    assert float(measured_text(registry.samplers["DDIM"].item)) == pytest.approx(1, abs=0.2)
    assert measured_text(registry.samplers["DDPM"].item) == ""
    html = plugins_html(registry, {"DDIM": "1.03"})
    assert "measured 1.03" in html and registry.samplers["DDIM"].check in html


def test_broken_plugins_come_first_with_their_line(registry, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "odd.py").write_text("import math\n\nmath.sqrt('a')\n")
    found = discover(ROOT / "plugins", [tmp_path / "mine"], packages=False)
    (broken,) = found.broken
    assert broken.line == "odd.py, line 3: math.sqrt('a')" and "TypeError" in broken.reason
    html = plugins_html(found)
    assert html.index("math.sqrt") < html.index("DDIM") and "register_samplers" in html
    assert tab_title(found) == "Plugins (1 broken)" and tab_title(registry) == "Plugins"


def test_apostrophes_of_a_plugin_are_read_as_they_are():
    assert limits(TextOption("a", "", help="the paper's"))["info"] == "the paper's"


def test_papers_are_links_only_where_they_can_be():
    assert 'href="https://arxiv.org/abs/2010.02502"' in paper_link("arXiv:2010.02502")
    assert "href" not in paper_link("javascript:alert(1)") and "href" in paper_link("https://example.org/a.pdf")


def test_numbers_get_the_control_that_reaches_them():
    assert on_slider(NumberOption("a", 0.0, 0, 1)) and on_slider(NumberOption("a", 1, 1, 50, whole=True))
    assert not on_slider(NumberOption("a", 1e-3, 1e-10, 1e-2))
    assert not on_slider(NumberOption("a", 10, 10, 10000, whole=True))


def test_samplers_of_other_libraries_are_offered_last_and_marked(registry):
    choices = sampler_choices(registry.samplers)
    names = [name for _, name in choices]
    assert sorted(names) == sorted(registry.samplers) and names[:4] == ["DDIM", "DDPM", "Euler", "Flow"]
    marked = [shown.endswith("(bridge)") for shown, _ in choices]
    assert marked == sorted(marked) and 0 < sum(marked) < len(marked)
    bridges = ("diffusers_schedulers", "k_diffusion")
    assert marked == [registry.samplers[name].source.endswith(bridges) for name in names]


def test_a_users_own_samplers_are_a_group_of_the_menu(registry):
    own = replace(registry.samplers["Euler"], source="mine/mine.py")
    groups = sampler_groups({**registry.samplers, "Zigzag": own})
    assert list(groups) == ["Recommended", "Native", "Yours", "Bridges"] and groups["Yours"] == ["Zigzag"]
    assert ("Zigzag (yours)", "Zigzag") in sampler_choices({"Zigzag": own})


def test_schedules_to_try_first_are_offered_first(registry):
    names = schedules_in_order(registry.schedules)
    assert sorted(names) == sorted(registry.schedules) and names[0] == "Uniform leading"
    assert [name for name in names if name in SCHEDULES] == list(SCHEDULES) == names[: len(SCHEDULES)]
    assert names[len(SCHEDULES) :] == sorted(names[len(SCHEDULES) :], key=str.casefold)


def test_one_row_of_controls_shows_every_entry_in_its_order(registry):
    for entries in (registry.samplers, registry.schedules):
        lists = [entry.item.options for entry in entries.values()]
        row = row_for([[control(option) for option in options] for options in lists])
        for options in lists:
            places = placed(options, row)
            assert tuple(places.values()) == options and list(places) == sorted(places)
            assert all(row[place] is control(option) for place, option in places.items())
        # No kind is there more often than one entry needs, so that the row is as short as it can be.
        most = [max(sum(control(o) is kind for o in options) for options in lists) for kind in set(row)]
        assert len(row) == sum(most)


def test_times_read_well():
    assert [seconds_text(s) for s in (0.42, 9.94, 11.2, 61, 3600)] == [
        "0.4 s",
        "9.9 s",
        "12 s",
        "1 min 01 s",
        "60 min 00 s",
    ]


STARTS = """
import socket, sys, threading
calls = []
def watched(original):
    def call(self, address, *rest):
        host = address[0] if isinstance(address, tuple) else ""
        if host and host not in ("127.0.0.1", "::1", "localhost", "0.0.0.0"):
            calls.append(address)
        return original(self, address, *rest)
    return call
for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, watched(getattr(socket.socket, name)))
looked_up = socket.getaddrinfo
def look_up(host, *rest, **more):
    if host not in (None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0", socket.gethostname()):
        calls.append(host)
    return looked_up(host, *rest, **more)
socket.getaddrinfo = look_up
from pathlib import Path
from webui import app
from webui.settings import Settings
opened = app.open_page
def open_page(page, engine, accounts=None):
    url = opened(page, engine, accounts)
    print("HEAVY", sorted({"diffusers", "transformers"} & set(sys.modules)), flush=True)
    def report():
        import time
        while engine.status.startswith(("starting", "loading")):
            time.sleep(0.1)
        print("STATUS", engine.status, flush=True)
    threading.Thread(target=report, daemon=True).start()
    return url
app.open_page = open_page
root = Path(sys.argv[1])
folders = dict(root=root, outputs=Path(sys.argv[3]), weights=root / "weights")
app.serve(Settings(port=int(sys.argv[2]), open_browser=False, **folders))
print("CALLS", calls, flush=True)
"""


@pytest.mark.slow
def test_a_start_calls_nobody_and_ends_tidily(tmp_path):
    """The real start with the embedded model: no outbound connection, no heavy import before the page, a clean end."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "GRADIO_TEMP_DIR": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", STARTS, str(ROOT), str(free_port()), str(tmp_path / "outputs")]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    killer = threading.Timer(120, process.kill)
    killer.start()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("STATUS"):
            process.send_signal(signal.SIGTERM)
    killer.cancel()
    said = "".join(lines)
    assert process.wait() == 0, said
    assert "HEAVY []" in said and "CALLS []" in said and "Sigmalab is open at http://127.0.0.1:" in said
    assert "Traceback" not in said and not list(tmp_path.glob(".gradio*"))


def test_no_tunnel_is_said_plainly(page, monkeypatch):
    from gradio import networking

    from webui.gradio_ext.tunnel import open_tunnel

    def fails(*arguments):
        raise RuntimeError("Could not get share link") from OSError("Network is unreachable")

    monkeypatch.setattr(networking, "setup_tunnel", fails)
    link, reason = open_tunnel(type("Launched", (), {"server_port": 1, "share_token": "x"})())
    assert link is None and "Network is unreachable" in reason


def test_what_a_picture_says_never_takes_a_verdict_away(registry, tmp_path):
    """A replay of a small picture may be over before the tab has read what the picture says."""
    engine = Engine(registry, Settings(root=tmp_path, outputs=tmp_path), find_models=lambda folder: {})
    config = build_page(engine).default_config.get_config()
    ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
    image, facts, verdict = ids["info-image"], ids["info-facts"], ids["info-verdict"]
    reading = [each for each in config["dependencies"] if [image, "change"] in [list(t) for t in each["targets"]]]
    assert reading and all(facts in each["outputs"] and verdict not in each["outputs"] for each in reading)


def test_no_two_listeners_can_start_each_other(registry, tmp_path):
    """`on_change` says why; one choice in the Lab once kept the browser at work for as long as the page was open."""
    engine = Engine(registry, Settings(root=tmp_path, outputs=tmp_path), find_models=lambda folder: {})
    config = build_page(engine).default_config.get_config()
    # What nobody sees is changed by the server alone.
    unseen = {each["id"] for each in config["components"] if each["props"].get("visible") is False}
    waiting = [each for each in config["dependencies"] if each["trigger_mode"] == "always_last"]
    heard = [
        (*target, each["trigger_after"]) for each in waiting for target in each["targets"] if target[0] not in unseen
    ]
    assert heard and len(set(heard)) == len(heard)
