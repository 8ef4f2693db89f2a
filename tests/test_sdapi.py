"""`/sdapi/v1` as its clients use it: the package webuiapi, and A1111's documented examples, on a served page."""

import asyncio
import base64
import json
import threading
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import httpx
import pytest
from conftest import ROOT, toy, until
from pages import served
from PIL import Image, ImageDraw
from starlette.responses import PlainTextResponse
from webuiapi import WebUIApi

from webui.api.method_names import (
    WRITTEN,
    known_model,
    method_fields,
    sampler_names,
    scheduler_names,
    upscaler_named,
)
from webui.api.openai_routes import write_transparency
from webui.api.picture_bodies import write_inverted
from webui.api.sdapi_bodies import Img2Img, Txt2Img
from webui.api.sdapi_request import Translator
from webui.app import launch_options
from webui.core.limits import LOCAL, PUBLIC, Limits, nearest_size, size_problem
from webui.core.menus import LATENT
from webui.core.request import RequestError
from webui.core.styles import Style, keep_styles
from webui.gradio_ext.api_login import ApiLogin, Logins
from webui.gradio_ext.login_throttle import LoginAttempts
from webui.importers.sampler_names import METHODS
from webui.settings import Settings
from weights.card import Card

LOGIN = ("ann", "secret")


@pytest.fixture(scope="module")
def page(registry, tmp_path_factory):
    with served(registry, tmp_path_factory.mktemp("sdapi"), page_settings=dict(api=True)) as page:
        yield page


@pytest.fixture
def client(page):
    page.pace.fast()
    return WebUIApi(baseurl=f"{page.url}/sdapi/v1", sampler="Euler", steps=2)


def post(page, name: str, body, **how):
    return httpx.post(f"{page.url}/sdapi/v1/{name}", json=body, timeout=60, **how)


def base64_png(colour="red", size=(64, 64), mode="RGB") -> str:
    buffer = BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_txt2img_of_the_client(client):
    result = client.txt2img(prompt="a bee", negative_prompt="dog", seed=7, batch_size=2, n_iter=2, width=64, height=72)
    assert [image.size for image in result.images] == [(64, 72)] * 4
    assert result.info["all_seeds"] == [7, 8, 9, 10]
    assert result.info["sampler_name"] == "Euler"
    assert result.images[1].info["parameters"] == result.info["infotexts"][1]
    assert "Seed: 8," in result.info["infotexts"][1]


def test_the_documented_example_needs_no_more_than_a_prompt(page):
    answer = post(page, "txt2img", {"prompt": "puppy dog", "steps": 5})
    assert answer.status_code == 200
    picture = Image.open(BytesIO(base64.b64decode(answer.json()["images"][0])))
    info = json.loads(answer.json()["info"])
    assert picture.size == (64, 64)
    assert (info["prompt"], info["steps"]) == ("puppy dog", 5)
    assert answer.json()["parameters"]["prompt"] == "puppy dog"


def test_what_is_unknown_or_null_is_ignored(page):
    body = {
        "prompt": "a",
        "steps": 1,
        "nothing": 1,
        "styles": None,
        "width": None,
        "refiner_checkpoint": None,
    }
    assert post(page, "txt2img", body).status_code == 200


def test_styles_are_listed_and_written_into_the_prompt(page):
    style = {"name": "Noir", "prompt": "a film still of {prompt}", "negative_prompt": "colour"}
    keep_styles(page.outputs, [Style(**style)])
    assert httpx.get(f"{page.url}/sdapi/v1/prompt-styles").json() == [style]
    answer = post(page, "txt2img", {"prompt": "a cat", "styles": ["Noir"], "steps": 1, "send_images": False}).json()
    info = json.loads(answer["info"])
    assert (info["prompt"], info["negative_prompt"], info["styles"]) == ("a film still of a cat", "colour", ["Noir"])


def test_pictures_may_be_left_out(page):
    assert post(page, "txt2img", {"prompt": "a", "steps": 1, "send_images": False}).json()["images"] == []


def test_hires(client):
    result = client.txt2img(
        prompt="a bee",
        enable_hr=True,
        hr_scale=2,
        denoising_strength=0.5,
        hr_upscaler="Latent",
        hr_second_pass_steps=2,
        width=64,
        height=64,
    )
    assert result.image.size == (128, 128)
    text = result.info["infotexts"][0]
    assert "Hires upscaler: Latent bilinear" in text
    assert "Hires steps: 4" in text, "two steps run at a strength of 0.5"


def test_img2img_with_a_mask_keeps_the_rest(client):
    before = Image.effect_noise((64, 64), 80).convert("RGB")
    mask = Image.new("RGB", before.size)
    ImageDraw.Draw(mask).rectangle((0, 0, 31, 63), fill="white")
    result = client.img2img(
        images=[before],
        mask_image=mask,
        prompt="a bee",
        steps=4,
        denoising_strength=1.0,
        mask_blur=0,
        inpainting_fill=1,
        inpaint_full_res=False,
        width=64,
        height=64,
    )
    right = (32, 0, 64, 64)
    assert result.image.convert("RGB").crop(right).tobytes() == before.crop(right).tobytes()
    turned = client.img2img(
        images=[before],
        mask_image=mask,
        inpainting_mask_invert=1,
        mask_blur=0,
        inpaint_full_res=False,
        steps=4,
        width=64,
        height=64,
    )
    left = (0, 0, 32, 64)
    assert turned.image.convert("RGB").crop(left).tobytes() == before.crop(left).tobytes()


def test_fields_of_img2img(page, tmp_path):
    picture = base64_png(size=(80, 40))

    def fields(**given):
        return Translator(page.engine).img2img(Img2Img(init_images=[picture], **given), {}, tmp_path)

    assert [fields(resize_mode=mode)["fit"] for mode in range(4)] == ["stretch", "crop", "pad", "stretch"]
    fills = [fields(mask=picture, inpainting_fill=fill)["mask_fill"] for fill in range(4)]
    assert fills == ["flat", "original", "noise", "flat"]
    assert fields(mask=picture)["inpaint_area"] == "masked"
    assert fields(mask=picture, mask_blur_x=1, mask_blur_y=9)["mask_blur"] == 9
    assert fields(sampler_name="Euler", s_churn=5)["options"] == {
        "churn": 5,
        "churn_to": 0,
        "churn_from": 0,
        "churn_noise": 1,
    }


def test_lists(client):
    assert {"Euler a", "DPM++ 2M", "DDIM", "UniPC", "ER-SDE"} <= set(client.util_get_sampler_names())
    assert {"karras", "automatic", "SNR shift"} <= set(client.util_get_scheduler_names())
    assert client.util_get_model_names() == ["other", "toy"]
    assert [each["name"] for each in client.get_upscalers()][:2] == ["None", "Lanczos"]
    assert {each["name"] for each in client.get_latent_upscale_modes()} == set(LATENT)
    assert client.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert client.get_memory()["ram"]["total"] > 0
    assert client.get_cmd_flags()["api"] is True
    assert client.get_sd_vae() == client.get_hypernetworks() == []
    assert [each["name"] for each in client.get_loras()] == ["blueprint"]
    client.refresh_checkpoints()


def test_a_model_that_is_set_counts_from_then_on(client):
    client.util_set_model("other")
    try:
        assert client.util_get_current_model() == "other"
        assert client.txt2img(prompt="a bee").info["sd_model_name"] == "other"
    finally:
        client.util_set_model("toy")


def test_a_refiner(page):
    fields = Translator(page.engine).txt2img(Txt2Img(refiner_checkpoint="other [0123abcd]", refiner_switch_at=0.5), {})
    assert (fields["refiner"], fields["refiner_switch"]) == ("other", 0.5)
    assert "refiner" not in Translator(page.engine).txt2img(Txt2Img(refiner_checkpoint="None"), {})


def test_override_settings_count_once(client):
    override = {"sd_model_checkpoint": "other [0123abcd]", "CLIP_stop_at_last_layers": 2}
    assert client.txt2img(prompt="a bee", override_settings=override).info["sd_model_name"] == "other"
    info = client.txt2img(prompt="a bee").info
    assert (info["sd_model_name"], info["clip_skip"]) == ("toy", 1)


def test_progress_shows_the_picture_and_interrupt_ends_the_job(page, client):
    page.pace.slow_after(3)
    answers = []
    drawing = threading.Thread(target=lambda: answers.append(client.txt2img(prompt="a bee", steps=8)))
    drawing.start()
    until(lambda: client.get_progress()["state"]["sampling_step"] >= 2)
    now = client.get_progress()
    assert 0.2 < now["progress"] < 0.6
    assert (now["state"]["sampling_steps"], now["state"]["job_count"]) == (8, 1)
    assert Image.open(BytesIO(base64.b64decode(now["current_image"]))).format == "JPEG"
    client.interrupt()
    page.pace.fast()
    drawing.join(60)
    assert answers[0].info["stopped"] is True
    assert answers[0].images == []
    client.util_wait_for_ready(0.05)


def test_skip_leaves_out_one_picture_and_goes_on_with_the_next(page, client):
    page.pace.slow_after(3)
    answers = []
    drawing = threading.Thread(target=lambda: answers.append(client.txt2img(prompt="a bee", n_iter=3, seed=5)))
    drawing.start()
    # Two calls a picture: the fourth is the second one's last, and waits.
    until(lambda: page.pace.seconds)
    assert client.get_progress()["state"]["job_no"] == 1
    client.skip()
    page.pace.fast()
    drawing.join(60)
    assert (answers[0].info["all_seeds"], answers[0].info["stopped"]) == ([5, 7], False)
    assert len(answers[0].images) == len(answers[0].info["infotexts"]) == 2
    assert "Seed: 7" in answers[0].info["infotexts"][1]


def test_who_hangs_up_ends_the_job(page):
    page.pace.slow_after(2)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{page.url}/sdapi/v1/txt2img", json={"prompt": "a", "steps": 8}, timeout=0.5)
    page.pace.seconds = 0.05
    until(lambda: not page.engine.queue.running and not page.engine.queue.waiting)
    page.pace.fast()


def test_png_info_of_the_client(client):
    made = client.txt2img(prompt="a bee", seed=7).images[0]
    answer = client.png_info(made)
    assert answer.info.startswith("a bee\nSteps: 2, Sampler: Euler,")
    assert answer.parameters["seed"] == 7


def test_png_info_of_a_picture_without_settings(page):
    answer = post(page, "png-info", {"image": "data:image/png;base64," + base64_png()}).json()
    assert (answer["info"], answer["items"]) == ("", {})
    assert "carries no settings" in answer["detail"]


def test_extra_single_image(client):
    result = client.extra_single_image(Image.new("RGB", (30, 20), "red"), upscaler_1="Lanczos", upscaling_resize=2)
    assert result.image.size == (60, 40)
    padded = client.extra_single_image(
        Image.new("RGB", (30, 20)), resize_mode=1, upscaling_resize_w=50, upscaling_resize_h=70, upscaling_crop=False
    )
    assert padded.image.size == (50, 70)


@pytest.mark.parametrize(
    "name, body, told",
    [
        ("txt2img", {"sampler_name": "Nothing"}, "Unknown sampler 'Nothing'; known are Euler, Euler a, Heun"),
        ("txt2img", {"scheduler": "nothing"}, "Unknown scheduler 'nothing'; known are automatic, uniform"),
        ("txt2img", {"override_settings": {"sd_model_checkpoint": "x"}}, "Unknown model 'x'; known are toy, other."),
        ("options", {"sd_model_checkpoint": "x"}, "Unknown model 'x'; known are toy, other."),
        ("txt2img", {"width": 4096, "height": 4096}, "model toy makes 16 to 2048, in multiples of 8"),
        ("txt2img", {"width": "wide"}, "width: Input should be a valid integer"),
        ("txt2img", {"script_name": "x/y/z plot"}, "There is no script 'x/y/z plot' here"),
        ("txt2img", {"alwayson_scripts": {"controlnet": {}}}, "There is no script 'controlnet' here"),
        ("txt2img", {"steps": 0}, "Steps must be a whole number from 1 to 1000."),
        ("txt2img", {"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, "Unknown upscaler 'R-ESRGAN 4x+'"),
        ("img2img", {"init_images": []}, "init_images has 0 pictures; it must have one."),
        ("img2img", {"init_images": ["http://127.0.0.1/a.png"]}, "is an address, which is not fetched"),
        ("img2img", {"init_images": ["!"]}, "init_images is not base64"),
        ("img2img", {"init_images": ["aGFsbG8="]}, "The file is not a picture that can be read"),
        ("img2img", {}, "init_images: Field required"),
        ("extra-single-image", {"image": "aGFsbG8=", "upscaler_1": "Latent"}, "Latent bilinear"),
        ("nothing", {}, "There is no POST /sdapi/v1/nothing; /docs lists what there is."),
    ],
)
def test_what_is_wrong_is_refused_in_words(page, name, body, told):
    answer = post(page, name, body)
    assert answer.status_code in (404, 422)
    assert told in answer.json()["detail"]


def test_a_run_that_fails_is_told(page):
    class Ill:
        def __call__(self, sigma):
            raise RuntimeError("the network is ill")

    page.engine.opened_model.on_call, kept = Ill(), page.engine.opened_model.on_call
    try:
        answer = post(page, "txt2img", {"prompt": "a", "steps": 1})
    finally:
        page.engine.opened_model.on_call = kept
    assert answer.status_code == 500
    assert "the network is ill" in answer.json()["detail"]


def test_other_origins_and_large_bodies_are_refused(page):
    assert post(page, "txt2img", {}, headers={"origin": "http://evil.example"}).status_code == 403
    assert post(page, "txt2img", {}, headers={"host": "evil.example"}).status_code == 400
    assert httpx.post(f"{page.url}/sdapi/v1/txt2img", content=b" " * (49 << 20)).status_code == 413


def test_the_description_can_be_read(page):
    openapi = httpx.get(f"{page.url}/openapi.json").json()
    assert {"/sdapi/v1/txt2img", "/sdapi/v1/progress", "/sdapi/v1/samplers"} <= openapi["paths"].keys()
    text = httpx.get(f"{page.url}/docs").text
    assert "/sdapi/v1/img2img" in text
    assert "the model&#39;s own size" in text
    assert "https://" not in text, "nothing is loaded from another server"


def test_without_the_flag_there_is_no_such_api():
    proxies, guard, *_ = launch_options(Settings(ROOT))["app_kwargs"]["middleware"]
    assert guard.kwargs["apis"] is None


def answer_of(login, path="/sdapi/v1/options", **headers) -> int:
    """The status of a request to an app behind a login, on a page without one."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = dict(type="http", method="GET", path=path, client=("10.0.0.1", 1), app=SimpleNamespace(auth=None))
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(login(scope, None, send))
    return sent[0]["status"]


def test_a_login_is_asked_for_and_guessing_waits():
    login = ApiLogin(PlainTextResponse("in"), Logins((LOGIN, ("bob", "a:b"))), LoginAttempts())
    basic = {who: "Basic " + base64.b64encode(who.encode()).decode() for who in ("ann:secret", "bob:a:b", "ann:wrong")}
    assert answer_of(login) == 401
    assert answer_of(login, authorization=basic["ann:secret"]) == 200
    assert answer_of(login, authorization=basic["bob:a:b"]) == 200
    assert answer_of(login, authorization="Bearer ann:secret") == 200
    assert answer_of(login, authorization="Bearer secret") == 401
    assert answer_of(login, path="/v1/images/files/x.png") == 200
    assert [answer_of(login, authorization=basic["ann:wrong"]) for _ in range(6)] == [401] * 5 + [429]
    assert answer_of(ApiLogin(PlainTextResponse("in"), Logins(), LoginAttempts())) == 200


def test_the_login_of_the_page_counts_and_accounts_are_apart(registry, tmp_path):
    from webui.core.accounts import write_account

    file = tmp_path / "accounts.toml"
    for name in ("ada", "bob"):
        write_account(file, name, f"{name}-password")
    with served(registry, tmp_path, auth_file=file, page_settings=dict(api=True, mcp=True)) as page:
        ada, bob = (
            httpx.Client(base_url=f"{page.url}/sdapi/v1", auth=(name, f"{name}-password")) for name in ("ada", "bob")
        )
        assert httpx.get(f"{page.url}/sdapi/v1/samplers").status_code == 401
        ada.post("/options", json={"sd_model_checkpoint": "other"})
        assert bob.get("/options").json()["sd_model_checkpoint"] == "toy"
        page.pace.slow_after(1)
        drawing = threading.Thread(target=lambda: ada.post("/txt2img", json={"prompt": "a", "steps": 4}, timeout=60))
        drawing.start()
        until(lambda: ada.get("/progress").json()["progress"] > 0)
        assert bob.get("/progress").json()["state"]["job_count"] == 0
        bob.post("/interrupt")
        assert ada.get("/progress").json()["state"]["interrupted"] is False
        page.pace.fast()
        drawing.join(60)
        assert list((page.outputs / "users" / "ada").glob("*/*.png"))
        called = dict(name="draw", arguments=dict(prompt="a", steps=1))
        body = dict(jsonrpc="2.0", id=1, method="tools/call", params=called)
        accept = {"accept": "application/json, text/event-stream"}
        answer = bob.post(f"{page.url}/mcp", json=body, headers=accept, timeout=60)
        assert answer.status_code == 200, answer.text
        assert list((page.outputs / "users" / "bob").glob("*/*.png")), "an agent's pictures are those of its account"
        browser = httpx.Client(base_url=page.url)
        browser.post("/login", data=dict(username="bob", password="bob-password"))
        assert browser.get("/sdapi/v1/options").status_code == 200


def test_sizes_that_fit(page):
    assert Translator(page.engine, fit=True).fitted(70, 33, "") == (72, 32)
    assert Translator(page.engine, fit=True).fitted(0, 4096, "toy") == (32, 2048)
    assert Translator(page.engine).fitted(70, 33, "") == (70, 33)


@pytest.mark.parametrize("limits", [LOCAL, PUBLIC, Limits(picture=64 * 64)])
@pytest.mark.parametrize("size", [(1, 1), (33, 70), (512, 512), (5000, 300), (2048, 2048), (16, 9999), (0, 100)])
def test_the_nearest_size_is_one_that_can_be_made(size, limits):
    width, height = nearest_size(*size, toy(), limits)
    assert not size_problem("width", width, toy()) and not size_problem("height", height, toy())
    assert width * height <= limits.picture or min(width, height) == 16


def test_sides_at_which_pictures_hold_together_are_preferred():
    info = replace(toy(), card=Card(draws="emoji", sizes=(64, 96)))
    assert nearest_size(512, 70, info) == (96, 64)


def test_names_of_all_worlds(registry):
    for name, sampler, schedule in (
        ("DPM++ 2M Karras", "DPM++ 2M", "Karras"),
        ("dpmpp_2m", "DPM++ 2M", None),
        ("Euler a", "DDIM", None),
        ("euler_ancestral_karras", "DDIM", "Karras"),
        ("k-diffusion heun", "k-diffusion Heun", None),
        ("ER-SDE", "ER-SDE", None),
    ):
        fields = method_fields(name, "Automatic", registry)
        assert (fields["sampler"], fields.get("schedule")) == (sampler, schedule)
    assert method_fields("Euler a", "", registry)["options"] == {"eta": 1.0}
    assert method_fields("", "SNR shift", registry) == {"schedule": "SNR shift"}
    assert method_fields("", "", registry) == {}


def test_every_name_that_is_listed_is_taken(registry):
    for name, others in sampler_names(registry).items():
        for each in (name, *others):
            assert method_fields(each, "", registry)["sampler"] in registry.samplers
    for name in scheduler_names(registry):
        assert name == "automatic" or method_fields("", name, registry)["schedule"] in registry.schedules
    assert {name.casefold() for name in WRITTEN} <= set(METHODS)
    with pytest.raises(RequestError, match="known are"):
        method_fields("nothing", "", registry)
    # Files have brackets in their names, too.
    assert upscaler_named("Real (x4)", ["Lanczos", "real (x4)"]) == "real (x4)"
    assert upscaler_named("Latent (bicubic)", []) == "Latent bicubic"
    assert known_model("foo [v2]", {"foo [v2]": None}) == "foo [v2]"
    assert known_model("foo [0123abcd]", {"foo": None}) == "foo"


def test_masks_of_both_apis_are_turned_upright(tmp_path):
    """As `open_mask` does: of a photograph's pixels and orientation, the latter counts."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    for turn, mode in ((write_inverted, "RGB"), (write_transparency, "RGBA")):
        layer = Image.new(mode, (32, 16))
        layer.save(tmp_path / "mask.png", exif=exif)
        assert Image.open(turn(tmp_path / "mask.png", LOCAL)).size == (16, 32)
