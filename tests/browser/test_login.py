"""Login, logout, and what the browser keeps the console from doing."""

import re

import httpx
from playwright.sync_api import expect

from tests.browser.console import Console
from tests.browser.elsewhere import another_site
from tests.support.oidc_provider import OidcProvider

_ACT = """async (url) => {
    const tries = [
        {method: "POST", mode: "no-cors", credentials: "include", body: "{}"},
        {method: "POST", credentials: "include", body: "{}", headers: {"X-Flotilla-Console": "1"}},
    ];
    const seen = [];
    for (const one of tries) {
        try { seen.push((await fetch(url + "/v1/sessions", one)).type); } catch { seen.push("refused"); }
    }
    return seen;
}"""


def test_a_person_logs_in_with_a_key_and_out_again(console: Console) -> None:
    page = console.visitor()
    page.goto("/runs")
    page.get_by_label("API key").fill(console.keys["alice"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()
    assert page.url == f"{console.url}/runs"
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert console.keys["alice"] not in str(page.context.storage_state())
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto("/runs")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_wrong_key_is_reported(console: Console) -> None:
    page = console.visitor()
    page.goto("/login")
    page.get_by_label("API key").fill("flo_" + "x" * 43)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("unknown, expired or revoked")).to_be_visible()
    assert page.context.cookies() == []


def test_a_person_logs_in_through_the_provider_and_lands_where_they_were(
    console: Console, provider: OidcProvider
) -> None:
    page = console.visitor()
    # The provider's answers come from another origin, as they must.
    console.watched[-1].origin = console.url
    page.goto("/approvals")
    page.get_by_role("link", name="Sign in with your organisation").click()
    expect(page.get_by_role("heading", name="Approvals", level=1)).to_be_visible()
    expect(page.get_by_text("paula", exact=True)).to_be_visible()
    assert page.url.startswith(f"{console.url}/approvals")
    assert not re.search("code=|token", page.url)
    assert all(url.startswith(f"{provider.url}/authorize") for url in console.watched[-1].elsewhere)
    console.watched[-1].elsewhere.clear()


def test_a_login_that_the_provider_refuses_says_why(console: Console, provider: OidcProvider) -> None:
    page = console.visitor()
    provider.refuse = "access_denied"
    try:
        page.goto("/auth/oidc/start?next=/runs")
    finally:
        provider.refuse = None
    expect(page.get_by_role("alert")).to_contain_text("did not let you in")
    console.watched[-1].elsewhere.clear()


def test_another_sites_page_can_not_make_the_browser_act(console: Console) -> None:
    """A page of another origin on the same machine: same site, so that only the header and the origin protect."""
    page = console.person()
    with console.api() as api:
        before = len(api.get("/v1/sessions", params={"limit": 1000}).json()["sessions"])
    with another_site("<title>elsewhere</title>") as address:
        page.goto(address)
        outcome = page.evaluate(_ACT, console.url)
    assert outcome == ["refused", "refused"]
    with console.api() as api:
        assert len(api.get("/v1/sessions", params={"limit": 1000}).json()["sessions"]) == before
    console.watched.pop()


def test_the_console_can_not_be_framed(console: Console) -> None:
    page = console.person()
    with another_site(f'<iframe src="{console.url}/approvals"></iframe>') as address:
        page.goto(address)
        page.wait_for_load_state("networkidle")
        (_, frame) = page.frames
        assert frame.url.startswith("chrome-error:")
    console.watched.pop()


def test_no_inline_script_runs_without_the_nonce(console: Console) -> None:
    page = console.visitor()
    page.goto("/login")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "alert('inline')";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=\\"alert('handler')\\">");
            const far = document.createElement("script");
            far.src = "https://evil.example/x.js";
            document.body.append(far);
        }"""
    )
    page.wait_for_function("window.__violations.length >= 3")
    assert page.evaluate("window.__ran") == []
    console.watched.pop()


def test_the_page_comes_with_the_policy_that_was_promised(console: Console) -> None:
    answer = httpx.get(f"{console.url}/approvals", trust_env=False)
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    nonce = policy["script-src"].split("'nonce-")[1].rstrip("'")
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    scripts = re.findall(r"<script[^>]*>", answer.text)
    assert scripts
    assert all(f'nonce="{nonce}"' in script or 'src="/assets/' in script for script in scripts)
    assert "http://" not in answer.text.replace("http://www.w3.org", "")
    assert "https://" not in answer.text


def test_roles_hide_what_they_forbid_and_the_api_forbids_it_anyway(console: Console) -> None:
    with console.api("admin") as admin:
        key = admin.post("/v1/keys", json={"name": "vera", "roles": ["viewer"], "person": True}).json()["key"]
    console.keys["vera"] = key
    page = console.person("vera")
    page.goto("/ask")
    expect(page.get_by_text("takes the role operator")).to_be_visible()
    expect(page.get_by_role("button", name="Ask")).to_have_count(0)
    status = page.evaluate(
        """async () => (await fetch("/v1/sessions", {method: "POST", body: "{}",
            headers: {"X-Flotilla-Console": "1", "Content-Type": "application/json"}})).status"""
    )
    assert status == 403
