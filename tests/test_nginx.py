"""The page behind nginx, with the very configuration that docs/sharing.md gives."""

import re
import shutil
import subprocess
import sys

import httpx
import pytest
from conftest import ROOT, until
from pages import free_port, served

NAME = "draw.example.org"
LOGIN = {"username": "ada", "password": "lovelace"}
NEEDED = [each for each in ("nginx", "openssl") if not shutil.which(each)]
pytestmark = pytest.mark.skipif(bool(NEEDED), reason=f"needs {' and '.join(NEEDED)}, such as Debian's nginx-light")


@pytest.fixture(scope="module")
def page(registry, tmp_path_factory):
    settings = dict(trusted_proxies=("127.0.0.1",), public_names=(NAME,), root_path="/draw")
    auth = tuple(LOGIN.values())
    with served(registry, tmp_path_factory.mktemp("page"), auth=auth, page_settings=settings.items()) as page:
        yield page


@pytest.fixture(scope="module")
def address(page, tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    names = ["-subj", f"/CN={NAME}", "-keyout", folder / "draw.key", "-out", folder / "draw.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names], check=True, capture_output=True
    )
    text = (ROOT / "docs" / "sharing.md").read_text("utf-8")
    (server,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/draw": str(folder / "draw"),
        "http://127.0.0.1:7860": page.url,
    }
    for said, here in changes.items():
        assert said in server
        server = server.replace(said, here)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors; events {{}}"
        f"http {{ access_log off; {paths} {server} }}"
    )
    process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "errors"])
    try:
        until(lambda: answers(port))
        yield f"https://127.0.0.1:{port}/draw"
    finally:
        process.terminate()
        process.wait(20)


def answers(port):
    try:
        httpx.get(f"https://127.0.0.1:{port}/", verify=False, timeout=20)
    except httpx.HTTPError:
        return False
    return True


@pytest.fixture
def visitor(address):
    with httpx.Client(base_url=address, verify=False, timeout=30, headers={"Host": NAME}) as visitor:
        yield visitor


def test_the_page_knows_its_public_address_and_nobody_comes_in_without_a_login(visitor):
    assert f"https://{NAME}/draw" in visitor.get("/").text
    assert visitor.get("/config").status_code == 401
    assert visitor.get("/", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_guesses_count_for_the_address_before_the_proxy_whatever_it_says(address):
    def guess(sender, number):
        with httpx.Client(transport=httpx.HTTPTransport(verify=False, local_address=sender), timeout=30) as visitor:
            headers = {"Host": NAME, "X-Forwarded-For": f"10.0.0.{number}"}
            return visitor.post(f"{address}/login", data={**LOGIN, "password": "guess"}, headers=headers).status_code

    assert [guess("127.0.0.2", number) for number in range(6)][-1] == 429
    assert guess("127.0.0.3", 0) == 400


def test_a_visitor_uploads_and_follows_a_run(visitor, page):
    until(lambda: visitor.post("/login", data=LOGIN).status_code == 200)
    assert visitor.post("/gradio_api/upload", files={"files": ("a.bin", bytes(3_000_000))}).status_code == 200
    page.pace.slow_after(3)
    event = visitor.post("/gradio_api/call/txt2img", json={"data": ["a"]}).json()["event_id"]
    seen = ""
    with visitor.stream("GET", f"/gradio_api/call/txt2img/{event}") as answer:
        for text in answer.iter_text():
            seen += text
            if '"running"' in seen and page.pace.seconds:
                # It stands still until what it has done so far has come through.
                page.pace.fast()
    assert seen.count("event: generating") > 1 and "event: complete" in seen
    files = re.findall(r'"url": "([^"]+)"', seen)
    assert files and all(each.startswith(f"https://{NAME}/draw/") for each in files)
