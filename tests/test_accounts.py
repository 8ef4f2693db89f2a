"""Accounts: their file, and what they have of their own on a page that is served."""

import io
import os
import stat
import sys

import httpx
import pytest
from conftest import until
from gradio_client import Client
from pages import served

from webui.account_command import change_account
from webui.core.accounts import Accounts, AccountsError, read_accounts, write_account
from webui.core.limits import PUBLIC
from webui.core.request import RequestError
from webui.tabs.form.page_context import Page
from webui.tabs.queue import jobs_of_all, queue_html, stop_jobs

PASSWORDS = {"ada": "lovelace", "bob": "builder-2", "root": "of-all-things"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("accounts") / "accounts.toml"
    for name, password in PASSWORDS.items():
        write_account(file, name, password, admin=name == "root")
    text = file.read_text().replace("[bob]", "[bob]\nsteps = 40\nwaiting = 1")
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def page(registry, tmp_path_factory, file):
    with served(registry, tmp_path_factory.mktemp("page"), auth_file=file) as page:
        yield page


def client(page, name):
    return Client(page.url, auth=(name, PASSWORDS[name]), download_files=False, verbose=False, analytics_enabled=False)


def test_a_password_is_kept_hashed_and_for_its_owner_only(file):
    accounts = Accounts(file)
    assert "lovelace" not in file.read_text()
    assert accounts.verify("ada", "lovelace")
    assert not any(accounts.verify(name, "lovelace") for name in ("bob", "nobody", "Ada", ""))


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_nobody_else_may_read_the_file(tmp_path):
    write_account(tmp_path / "a", "ada", "lovelace")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_another_password_leaves_the_rest_of_an_entry(tmp_path, file):
    copy = tmp_path / "a"
    copy.write_text(file.read_text())
    write_account(copy, "bob", "another-one")
    bob = Accounts(copy).named("bob")
    assert (bob.waiting, bob.limits.steps, bob.limits.count) == (1, 40, PUBLIC.count)
    assert Accounts(copy).verify("bob", "another-one") and Accounts(copy).named("root").admin


def test_the_command_takes_the_password_from_a_pipe(tmp_path, monkeypatch, capsys):
    file = tmp_path / "a"
    monkeypatch.setattr(sys, "stdin", io.StringIO("lovelace\nshort\nlovelace\n"))
    assert change_account(file, "ada", True, False) == 0 and Accounts(file).verify("ada", "lovelace")
    assert change_account(file, "bob", None, False) == 1 and "needs 8" in capsys.readouterr().err
    assert change_account(file, "../x", None, False) == 1 and "no name" in capsys.readouterr().err
    assert change_account(file, "ada", None, True) == 0 and not Accounts(file).all()
    assert change_account(file, "ada", None, True) == 1 and "no account ada" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, said",
    [
        ("[", "not TOML"),
        ("[ada]\npassword = 'lovelace'", "no hashed password"),
        ("ada = 1", "no hashed password"),
        ("['../x']\npassword = '$argon2'", "no name"),
        ("[ada]\npassword = '$argon2'\nfoo = 1", "allowed are admin, waiting"),
        ("[ada]\npassword = '$argon2'\nsteps = true", "whole numbers"),
        ("[ada]\npassword = '$argon2'\nadmin = 1", "true and false"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(text, said):
    with pytest.raises(AccountsError, match=said):
        read_accounts(text)


def test_each_account_has_pictures_and_limits_of_its_own(page):
    client(page, "ada").predict("a", steps=50, api_name="/txt2img")
    assert {path.parent.parent.parent.name for path in page.outputs.rglob("*.png")} == {"users"}
    assert len(list((page.outputs / "users" / "ada").rglob("*.png"))) == 1
    with pytest.raises(Exception, match="Steps is 50; allowed here is 1 to 40"):
        client(page, "bob").predict("a", steps=50, api_name="/txt2img")


def test_an_account_has_a_bound_in_the_queue_and_only_an_admin_sees_and_stops_all(page, file, monkeypatch):
    page.pace.slow_after(0)
    ada, bob = client(page, "ada"), client(page, "bob")
    jobs = [ada.submit("a", api_name="/txt2img"), bob.submit("b", api_name="/txt2img")]
    until(lambda: len(page.engine.queue.running) == 1 and len(page.engine.queue.waiting) == 1)
    # The first of bob's may run by now, then another one waits.
    if page.engine.queue.waiting[0].account == "ada":
        jobs.append(bob.submit("b", api_name="/txt2img"))
        until(lambda: len(page.engine.queue.waiting) == 2)
    with pytest.raises(Exception, match="1 jobs of yours are waiting"):
        bob.predict("b", api_name="/txt2img")
    shown = Page(page.engine, None, {}, None, None)
    with pytest.raises(RequestError, match="Only an admin"):
        stop_jobs(shown)
    monkeypatch.setattr(page.engine, "_account_of", lambda: Accounts(file).named("root"))
    html = queue_html(jobs_of_all(shown), page.engine.queue.now)
    assert "ada" in html and "bob" in html and "running" in html and "ahead" in html
    waiting = page.engine.queue.waiting[0]
    stop_jobs(shown, waiting.id)
    assert waiting.outcome and page.engine.queue.running
    stop_jobs(shown)
    page.pace.fast()
    until(lambda: not page.engine.queue.running)
    for job in jobs:
        job.cancel()


def test_a_job_is_found_by_its_own_account_only(page, monkeypatch, file):
    from webui.core.request import Request

    account = Accounts(file)
    monkeypatch.setattr(page.engine, "_account_of", lambda: account.named("ada"))
    job = page.engine.submit(Request(prompt="a", steps=1), "token/txt2img")
    job.wait(20)
    assert page.engine.find("token/txt2img") is job
    monkeypatch.setattr(page.engine, "_account_of", lambda: account.named("bob"))
    assert page.engine.find("token/txt2img") is None


def test_a_page_tells_who_may_enter_and_how_to_leave(page):
    assert httpx.get(f"{page.url}/config", timeout=20).status_code == 401
    with httpx.Client(base_url=page.url, timeout=20) as one:
        assert one.post("/login", data={"username": "ada", "password": "wrong"}).status_code == 400
        assert one.post("/login", data={"username": "ada", "password": "lovelace"}).status_code == 200
        assert "Sign out" in one.get("/config").text and one.get("/gradio_api/user").json() == "ada"


def test_a_page_that_was_sent_before_is_sent_to_its_own_account_alone(page):
    def opened(*names):
        with httpx.Client(base_url=page.url, timeout=20) as one:
            for name in names:
                one.post("/login", data={"username": name, "password": PASSWORDS[name]})
            return one.get("/").text

    for _ in range(2):
        assert '"username":"ada"' in opened("ada") and '"username":"bob"' in opened("bob")
        assert '"auth_required":true' in opened() and '"username":' not in opened()


def test_an_account_that_was_removed_can_do_nothing_more(registry, tmp_path, file):
    copy = tmp_path / "a"
    copy.write_text(file.read_text())
    accounts = Accounts(copy)
    text = copy.read_text()
    copy.write_text(text[: text.index("[bob]")])
    assert accounts.named("ada").name == "ada"
    with pytest.raises(RequestError, match="bob was removed"):
        accounts.named("bob")
