"""axe on every page, light and dark, wide and narrow."""

from functools import cache
from importlib import resources
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.console import Console, submitted

SERIOUS = ("serious", "critical")
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 375, "height": 800}
_RUN = """async () => {
    const found = await axe.run(document, {runOnly: [
        "wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]});
    return found.violations.map((one) => ({id: one.id, impact: one.impact, help: one.help,
        where: one.nodes.slice(0, 5).map((node) => [node.target.join(" "), node.failureSummary])}));
}"""


@cache
def axe() -> str:
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text()


def violations(page: Page) -> list[dict[str, Any]]:
    page.add_script_tag(content=axe())
    found: list[dict[str, Any]] = page.evaluate(_RUN)
    return [one for one in found if one["impact"] in SERIOUS]


@pytest.fixture(scope="session")
def action_id(_console: Console) -> str:
    with _console.api() as api:
        return submitted(api, args={"text": "looked at by axe"})


@pytest.fixture(scope="session")
def paths(_console: Console, told: str, action_id: str) -> list[str]:
    """Every page, with something on it."""
    with _console.api() as api:
        (run, *_) = api.get("/v1/runs", params={"session_id": told}).json()["runs"]
    return [
        "/ask", f"/ask?session={told}", "/approvals", "/approvals?status=all", f"/approvals/{action_id}", "/runs",
        f"/runs/{run['run_id']}", "/sessions", f"/sessions/{told}", "/documents?q=diesel", "/orders", "/fleet",
        "/tools",
    ]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing_serious_on_any_page(
    console: Console, paths: list[str], scheme: str, viewport: dict[str, int]
) -> None:
    # axe is injected past the policy; that is all the policy is bypassed for.
    page = console.person("bob", color_scheme=scheme, viewport=viewport, bypass_csp=True)
    found = {}
    for path in paths:
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".loading, [aria-busy=true]")).to_have_count(0)
        if serious := violations(page):
            found[path] = serious
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= viewport["width"], f"{path} is {width} px wide"
    assert found == {}


def test_axe_finds_nothing_serious_on_the_login_page(console: Console) -> None:
    for scheme in ("light", "dark"):
        page = console.visitor(color_scheme=scheme, bypass_csp=True)
        page.goto("/login")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert violations(page) == []


def test_axe_finds_nothing_serious_in_dialogs(console: Console, told: str, action_id: str) -> None:
    page = console.person("bob", bypass_csp=True)
    for path, button in ((f"/sessions/{told}?at=2", "Fork here"), (f"/approvals/{action_id}", "Edit…")):
        page.goto(path)
        page.get_by_role("button", name=button).click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert violations(page) == []
