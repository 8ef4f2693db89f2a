"""OpenAI's images API as the package openai uses it, on a served page."""

import base64
from io import BytesIO

import httpx
import openai
import pytest
from pages import served
from PIL import Image

from webui.api.openai_routes import OfferedFiles

pytestmark = pytest.mark.filterwarnings("ignore:deprecated")  # OpenAI gave variations up; clients still ask


@pytest.fixture(scope="module")
def page(registry, tmp_path_factory):
    with served(registry, tmp_path_factory.mktemp("openai"), page_settings=dict(api=True)) as page:
        yield page


@pytest.fixture
def client(page):
    return openai.OpenAI(base_url=f"{page.url}/v1", api_key="none", max_retries=0)


def opened(data) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(data.b64_json)))


def png(mode="RGB", colour="red", size=(64, 64)) -> BytesIO:
    buffer = BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    buffer.name = "picture.png"
    buffer.seek(0)
    return buffer


def test_generations(client):
    extra = dict(steps=2, seed=7, sampler="dpmpp_2m", schedule="karras", guidance=3, negative_prompt="dog")
    answer = client.images.generate(prompt="a bee", n=2, size="64x72", model="other", extra_body=extra)
    pictures = [opened(each) for each in answer.data]
    assert [picture.size for picture in pictures] == [(64, 72)] * 2
    text = pictures[1].info["parameters"]
    assert "Negative prompt: dog\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3, Seed: 8" in text
    assert "Model: other" in text


def test_other_formats_keep_the_settings(client):
    answer = client.images.generate(prompt="a bee", output_format="webp", extra_body=dict(steps=1))
    picture = opened(answer.data[0])
    assert (picture.format, picture.size) == ("WEBP", (64, 64))
    assert picture.getexif()


def test_addresses_are_good_without_a_login(client):
    answer = client.images.generate(prompt="a bee", response_format="url", extra_body=dict(steps=1))
    fetched = httpx.get(answer.data[0].url)
    assert Image.open(BytesIO(fetched.content)).size == (64, 64)
    assert httpx.get(answer.data[0].url.rsplit("/", 1)[0] + "/guess.png").status_code == 404


def test_addresses_do_not_last(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    offered = OfferedFiles()
    name = offered.offer(tmp_path / "a.png")
    assert offered.find(name) == tmp_path / "a.png"
    monkeypatch.setattr("webui.api.openai_routes.time.monotonic", lambda: 1e12)
    assert offered.find(name) is None


def test_edits_draw_what_is_transparent_in_the_mask(client):
    before = Image.effect_noise((64, 64), 80).convert("RGB")
    mask = Image.new("RGBA", before.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 16, 64))
    files = []
    for image in (before, mask):
        files.append(BytesIO())
        image.save(files[-1], "PNG")
        files[-1].name = "x.png"
        files[-1].seek(0)
    answer = client.images.edit(image=files[0], mask=files[1], prompt="a bee")
    after = opened(answer.data[0]).convert("RGB")
    kept = (32, 0, 64, 64)
    assert after.crop(kept).tobytes() == before.crop(kept).tobytes()
    assert after.crop((0, 0, 16, 64)).tobytes() != before.crop((0, 0, 16, 64)).tobytes()


def test_edits_of_a_list_and_by_strength(client):
    answer = client.images.edit(image=[png()], prompt="a bee", extra_body=dict(strength=0.25))
    assert "Denoising strength: 0.25" in opened(answer.data[0]).info["parameters"]


def test_variations_of_our_own_picture_have_its_settings(client):
    first = client.images.generate(prompt="a bee", extra_body=dict(steps=2, seed=7))
    file = BytesIO(base64.b64decode(first.data[0].b64_json))
    file.name = "x.png"
    texts = [opened(each).info["parameters"] for each in client.images.create_variation(image=file, n=2).data]
    assert all("Seed: 7," in text and "Variation seed strength: 0.15" in text for text in texts)


def test_variations_of_another_picture_start_from_it(client):
    answer = client.images.create_variation(image=png(), size="64x64")
    assert "Denoising strength: 0.6" in opened(answer.data[0]).info["parameters"]


def test_models(client):
    assert [model.id for model in client.models.list()] == ["toy", "other"]
    assert client.models.retrieve("toy").id == "toy"
    with pytest.raises(openai.NotFoundError, match="Unknown model 'gpt'; known are toy, other."):
        client.models.retrieve("gpt")


@pytest.mark.parametrize(
    "given, told",
    [
        (dict(model="gpt-image-1"), "Unknown model 'gpt-image-1'; known are toy, other."),
        (dict(size="huge"), "size is 'huge'; allowed are auto and sizes such as 512x512."),
        (dict(size="4096x4096"), "model toy makes 16 to 2048, in multiples of 8"),
        (dict(n=1000), "Count must be a whole number from 1 to 64."),
        (dict(extra_body=dict(stream=True)), "not streamed"),
        (dict(extra_body=dict(sampler="x")), "Unknown sampler 'x'; known are"),
    ],
)
def test_what_is_wrong_is_refused_in_words(client, given, told):
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(prompt="a bee", **given)
    assert told in error.value.body["message"]


def test_a_mask_without_a_hole_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="nothing transparent"):
        client.images.edit(image=png(), mask=png(), prompt="a bee")


def test_a_wrong_token_is_refused(registry, tmp_path):
    with served(registry, tmp_path, auth=("ann", "secret"), page_settings=dict(api=True, mcp=True)) as page:
        with pytest.raises(openai.AuthenticationError, match="user:password"):
            openai.OpenAI(base_url=f"{page.url}/v1", api_key="none", max_retries=0).models.list()
        right = openai.OpenAI(base_url=f"{page.url}/v1", api_key="ann:secret", max_retries=0)
        assert right.models.retrieve("toy").id == "toy"
        foreign = httpx.get(f"{page.url}/v1/models", headers={"origin": "http://evil.example"})
        assert foreign.status_code == 403
        assert httpx.post(f"{page.url}/mcp", json={}).status_code == 401
        foreign = httpx.post(f"{page.url}/mcp", json={}, headers={"origin": "http://evil.example"})
        assert foreign.status_code == 403
