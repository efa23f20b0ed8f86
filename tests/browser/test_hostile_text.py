"""Text that wants to be more than text, in everything that the console shows: no script runs, no request leaves.

The strings are in `corpus/`. Each test runs twice: with the gateway's content security policy, which must never have
had to step in, and without it, since the pages have to hold by themselves.
"""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from flotilla.contracts.session_events import ErrorRaised, Message, Source, StateChange, ToolCall, ToolResult
from tests.browser.console import Console, submitted
from tests.browser.written import event, write

FILES = ("markup", "markdown", "instructions")
STRINGS = [
    line
    for name in FILES
    for line in (Path(__file__).parent / "corpus" / f"{name}.txt").read_text().splitlines()
    if line.strip()
]
EVENTS_EACH = 6
# Elements and attributes that only an attacker's text could have made.
_FOREIGN = r"""() => {
    const kinds = [
        "iframe", "object", "embed", "applet", "base", "form[action]", "link[href^=http]", "img", "video", "audio",
        "math", "marquee", "style:not([nonce])", "script:not([nonce]):not([src^='/assets/'])", "meta[http-equiv]",
        "portal",
        "use[href^=http]",
    ];
    const isAddress = (name) => ["href", "src", "action", "formaction", "xlink:href"].includes(name);
    const isUnsafe = /^[\s\u0000-\u001f]*(javascript|data|vbscript|file):/i;
    const found = [...document.body.querySelectorAll(kinds.join(", "))].map((one) => one.outerHTML.slice(0, 200));
    for (const one of document.body.querySelectorAll("*")) {
        for (const {name, value} of one.attributes) {
            if (name.startsWith("on") || (isAddress(name) && isUnsafe.test(value))) {
                found.push(`${one.tagName} ${name}=${value}`);
            }
        }
    }
    return found;
}"""

# From event to event by the arrow key, each drawn before the next one is chosen; gives where that ended.
_STEP_THROUGH = """async ([events]) => {
    const list = document.querySelector("[role=listbox]");
    const drawn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    for (let seq = 1; seq < events; seq += 1) {
        list.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true, cancelable: true}));
        await drawn();
    }
    await drawn();
    return Number(document.querySelector("[role=option][aria-selected=true]").getAttribute("aria-posinset"));
}"""

policy = pytest.mark.parametrize("bypass_csp", [False, True], ids=["with the policy", "without it"])


def inspect(page: Page) -> None:
    """What only an attacker's text could have made is not there."""
    assert page.evaluate(_FOREIGN) == []
    assert page.evaluate("({}).polluted") is None


def events_of(text: str) -> list[Any]:
    source = Source(
        document_id="none", title=text, uri=text if "://" in text else f"https://ok.example/{text}", passage_id="p",
        start=0, end=1, score=1.0, quote=text,
    )  # fmt: skip
    failed = ToolResult(tool=text, call_id=text, ok=False, duration_ms=1, result={text: text}, error=text)
    return [
        event("message", Message(role="user", content=text)),
        event("message", Message(role="assistant", content=f"{text} [1]", sources=[source])),
        event("tool_call", ToolCall(tool=text, call_id=text, args={"text": text, text: [text]}, agent=text)),
        event("tool_result", failed),
        event("state_change", StateChange(change=text, set={text: text}, details={text: text})),
        event("error", ErrorRaised(type=text, message=text, where=text)),
    ]


@pytest.fixture(scope="session")
def hostile(_console: Console) -> str:
    """A session in which every string is said, called, answered, set and raised."""
    write(_console.fleet, "hostile", [part for text in STRINGS for part in events_of(text)])
    return "hostile"


def test_the_corpus_is_large_enough() -> None:
    assert len(set(STRINGS)) >= 100


@policy
def test_in_every_event_of_a_session(console: Console, hostile: str, *, bypass_csp: bool) -> None:
    page = console.person(bypass_csp=bypass_csp)
    page.goto(f"/sessions/{hostile}?at=1")
    option = page.get_by_role("option", selected=True)
    expect(option).to_have_attribute("aria-posinset", "1")
    assert page.evaluate(_STEP_THROUGH, [len(STRINGS) * EVENTS_EACH]) == len(STRINGS) * EVENTS_EACH
    inspect(page)
    page.get_by_role("tab", name="State then").click()
    expect(page.locator(".state")).to_be_visible()


@policy
def test_in_arguments_and_reasons_of_actions(console: Console, *, bypass_csp: bool) -> None:
    text = "\n".join(STRINGS)
    with console.api() as api:
        action_id = submitted(api, args={"text": text}, description=text[:4000])
        submitted(api, action="echo", args={"text": "x"}, description=STRINGS[0])
    page = console.person("bob", bypass_csp=bypass_csp)
    page.goto("/approvals")
    expect(page.locator(f'a[href="/approvals/{action_id}"]')).to_be_visible()
    inspect(page)
    page.goto(f"/approvals/{action_id}")
    expect(page.get_by_test_id("content-hash")).to_be_visible()
    page.get_by_role("button", name="Edit…").click()
    page.get_by_role("dialog").get_by_role("textbox").fill(f"{text}!")
    page.get_by_role("dialog").get_by_role("button", name="Review the change").click()
    expect(page.get_by_role("group", name="What you change")).to_be_visible()
    inspect(page)
    page.keyboard.press("Escape")
    page.get_by_label("Reason").fill(text[:2000])
    page.get_by_role("button", name="Reject").click()
    expect(page.locator(".votes")).to_contain_text(STRINGS[0])
    inspect(page)


@policy
def test_in_documents(console: Console, *, bypass_csp: bool) -> None:
    with console.api() as api:
        text = "# Hostile\n\nThe quizzical words\n\n" + "\n\n".join(STRINGS)
        for at, title in enumerate(STRINGS[:30]):
            files = {"file": (f"hostile-{at}.txt", text.encode(), "text/plain")}
            answer = api.post("/v1/documents", files=files, data={"title": title, "uri": f"{title}#{at}"[:1000]})
            assert answer.status_code in (200, 201), answer.text
    page = console.person(bypass_csp=bypass_csp)
    page.goto("/documents?q=quizzical")
    expect(page.get_by_role("list", name="Passages, best first")).to_be_visible()
    inspect(page)
    page.get_by_role("list", name="Passages, best first").get_by_role("button").first.click()
    expect(page.get_by_role("dialog").locator("mark")).to_be_visible()
    inspect(page)
    page.keyboard.press("Escape")
    page.goto("/documents")
    page.locator("table button").first.click()
    expect(page.get_by_label("Text of the document")).to_be_visible()
    inspect(page)
