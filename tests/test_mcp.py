"""The Model Context Protocol as an agent uses it, with the client of the package mcp, on a served page."""

import asyncio
import base64
import json
import threading
from contextlib import suppress
from io import BytesIO

import pytest
from conftest import ROOT, until
from mcp import Client
from pages import served
from PIL import Image

TOOLS = {"draw", "edit", "read_recipe", "catalog", "schedule", "check_sampler", "measure_order"}


@pytest.fixture(scope="module")
def page(registry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mcp")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "euler.py").write_text((ROOT / "plugins" / "euler.py").read_text("utf-8"), "utf-8")
    (folder / "secret.py").write_text("", "utf-8")
    with served(registry, folder, page_settings=dict(mcp=True)) as page:
        yield page


def call(page, tool: str, heard=None, **arguments):
    """(is it an error, its pictures, its text) of a tool's answer."""

    async def ask():
        async def progress(done, total, text):
            if heard is not None:
                heard.append((done, total, text))

        async with Client(f"{page.url}/mcp") as client:
            answer = await client.call_tool(tool, arguments, progress_callback=progress)
        pictures = [base64.b64decode(each.data) for each in answer.content if each.type == "image"]
        texts = [each.text for each in answer.content if each.type == "text"]
        return answer.is_error, [Image.open(BytesIO(each)) for each in pictures], texts[-1]

    return asyncio.run(ask())


def tools_of(page):
    async def ask():
        async with Client(f"{page.url}/mcp") as client:
            return {tool.name: tool for tool in (await client.list_tools()).tools}

    return asyncio.run(ask())


def test_the_tools_are_typed_and_explained(page):
    tools = tools_of(page)
    assert tools.keys() == TOOLS
    draw = tools["draw"].input_schema
    assert draw["required"] == ["prompt"]
    assert draw["properties"]["steps"]["type"] == "integer"
    assert "from 1 to 1000" in draw["properties"]["steps"]["description"]
    assert {"image", "mask", "strength"} <= tools["edit"].input_schema["properties"].keys()
    assert not any("code" in tool.input_schema["properties"] for tool in tools.values())
    assert all(tool.description for tool in tools.values())


def test_draw_then_read_then_edit(page):
    heard = []
    error, pictures, text = call(page, "draw", heard, prompt="a bee", steps=3, seed=7, count=2)
    info = json.loads(text)
    assert not error
    assert [picture.size for picture in pictures] == [(64, 64)] * 2
    assert info["seeds"] == [7, 8]
    assert all((page.outputs / file).is_file() for file in info["files"])
    recipe = json.loads(call(page, "read_recipe", picture=info["files"][1])[2])
    assert (recipe["program"], recipe["request"]["seed"]) == ("Sigmalab", 8)
    error, edited, text = call(page, "edit", image=info["files"][0], prompt="a dog", strength=0.5, steps=2)
    assert not error and edited[0].size == (64, 64)
    assert json.loads(text)["strength"] == 0.5


def test_progress_is_told(page):
    heard = []
    page.pace.seconds = 0.1
    try:
        call(page, "draw", heard, prompt="a bee", steps=8)
    finally:
        page.pace.fast()
    assert any(0 < done <= 8 and total == 8 and "step" in text for done, total, text in heard)


def test_who_goes_away_stops_the_job(page):
    page.pace.slow_after(2)

    async def leave():
        async with Client(f"{page.url}/mcp") as client:
            await asyncio.wait_for(client.call_tool("draw", dict(prompt="a bee", steps=20)), 1.0)

    def ask():
        with suppress(Exception):
            asyncio.run(leave())

    leaving = threading.Thread(target=ask)
    leaving.start()
    until(lambda: page.engine.queue.running)
    leaving.join(30)
    page.pace.seconds = 0.05
    until(lambda: not page.engine.queue.running)
    page.pace.fast()


def test_catalog_and_schedule(page):
    catalog = json.loads(call(page, "catalog")[2])
    assert {"toy", "other"} == {model["name"] for model in catalog["models"]}
    assert catalog["plugin_files"] == ["plugins/euler.py"]
    levels = json.loads(call(page, "schedule", schedule="Karras", steps=4)[2])
    assert len(levels["sigmas"]) == 5 and levels["sigmas"][-1] == 0


def test_a_plugin_file_is_checked_and_no_other(page):
    report = json.loads(call(page, "check_sampler", file="plugins/euler.py")[2])
    assert report["passed"] and len(report["results"]) == 19
    for file in ("../secret.py", "secret.py", str(ROOT / "plugins" / "euler.py")):
        error, _, text = call(page, "check_sampler", file=file)
        assert error and "there are plugins/euler.py." in text


def test_orders_are_measured(page):
    answer = json.loads(call(page, "measure_order", samplers=["Euler", "Heun", "DDPM"])[2])
    assert abs(answer["order"]["Euler"] - 1) < 0.3
    assert abs(answer["order"]["Heun"] - 2) < 0.4
    assert [each["sampler"] for each in answer["excluded"]] == ["DDPM"]
    assert {"sampler", "setting", "calls", "error"} == answer["points"][0].keys()


@pytest.mark.parametrize(
    "tool, arguments, told",
    [
        ("draw", dict(prompt="a", sampler="Nothing"), "Unknown sampler 'Nothing'; known are"),
        ("draw", dict(prompt="a", steps=0), "Steps must be a whole number from 1 to 1000."),
        ("draw", dict(), "prompt"),
        ("edit", dict(prompt="a", image="../../etc/passwd"), "is no picture drawn here"),
        ("edit", dict(prompt="a", image="http://127.0.0.1/a.png"), "is not fetched"),
        ("read_recipe", dict(picture="nothing.png"), "is no picture drawn here"),
        ("measure_order", dict(samplers=["Nothing"]), "nknown sampler 'Nothing'"),
    ],
)
def test_what_is_wrong_is_told_to_the_model(page, tool, arguments, told):
    error, _, text = call(page, tool, **arguments)
    assert error
    assert told in text
