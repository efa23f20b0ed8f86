"""`docs/browser.md`: a product's own page, on another origin, with its own server, as the page has them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.console import TIMEOUT_MS, Console, until
from tests.browser.test_asking import is_ready
from tests.e2e.stub_endpoint import StubEndpoint

DOCUMENT = (Path(__file__).parents[2] / "docs/browser.md").read_text()
ANSWER = "The harbour master inspects every mooring line, on the first Monday of each month [1]. That is all."
ASK = """([url, token, headers]) => fetch(url, {headers: {Authorization: `Bearer ${token}`, ...headers}})
    .then((response) => response.status, (error) => error.name)"""


def block(language: str) -> str:
    [text] = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(text)


@pytest.fixture(scope="module")
def shop_key(fleet: object, _console: Console) -> str:
    with _console.api("admin") as admin:
        body = {"name": "page-shop", "roles": ["operator"], "may_act_for_others": True, "people_of": "shop"}
        made = admin.post("/v1/keys", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["key"])


@contextmanager
def serving(folder: Path, console: Console, key: str, port: int) -> Iterator[str]:
    """The server of the document, with its page beside it."""
    (folder / "server.py").write_text(block("python"))
    (folder / "page.html").write_text(block("html"))
    env = {**os.environ, "FLOTILLA_URL": console.url, "FLOTILLA_KEY": key, "PORT": str(port)}
    process = subprocess.Popen([sys.executable, str(folder / "server.py")], env=env, stderr=subprocess.DEVNULL)
    url = f"http://localhost:{port}"

    def answers() -> bool:
        try:
            return httpx.get(url, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(answers)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def page(console: Console, shop_key: str, page_port: int, tmp_path: Path) -> Iterator[Page]:
    """The document's page in a browser that has never seen the console."""
    context = console.browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    with serving(tmp_path, console, shop_key, page_port) as url:
        opened = context.new_page()
        opened.goto(url)
        yield opened
        context.close()


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.keyboard.press("Enter")


def test_the_page_shows_an_answer_as_it_is_written(page: Page, model: StubEndpoint) -> None:
    with model.saying(ANSWER, delay_s=0.1):
        ask(page, "Who inspects the mooring lines?")
        expect(page.locator("#answer")).to_contain_text("harbour master")
        expect(page.locator("#status")).to_have_text("…")
    expect(page.locator("#status")).to_have_text("success")
    expect(page.locator("#answer")).to_contain_text("That is all.")


def test_the_page_goes_on_after_the_gateways_death(console: Console, page: Page, model: StubEndpoint) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.headers.get("last-event-id", "")))
    with model.saying(ANSWER, delay_s=0.3):
        ask(page, "Who inspects the mooring lines?")
        expect(page.locator("#answer")).to_contain_text("harbour")
        console.fleet.signal("gateway", signal.SIGKILL)
        until(lambda: is_ready(console), timeout_s=120)
    expect(page.locator("#status")).to_have_text("success")
    assert page.locator("#answer").text_content() == ANSWER
    assert any(asked)


def test_another_page_and_another_session_get_nothing(console: Console, page: Page) -> None:
    token = page.evaluate("fetch('/token', {method: 'POST'}).then((made) => made.json())")
    runs, other = f"{console.url}/v1/runs", f"{console.url}/v1/sessions/told"
    assert page.evaluate(ASK, [runs, token["token"], {}]) == 200
    assert page.evaluate(ASK, [other, token["token"], {}]) == 404
    assert (
        page.evaluate(ASK, [runs, token["token"], {"X-Flotilla-Console": "1"}]) == "TypeError"
    )  # not in the preflight
    page.goto(page.url.replace("localhost", "127.0.0.1"))  # another origin, which nobody listed
    assert page.evaluate(ASK, [runs, token["token"], {}]) == "TypeError"
