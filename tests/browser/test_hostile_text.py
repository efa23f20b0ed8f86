"""Text that wants to be more than text, in what people, models and agents write: no script runs, no request leaves.

Each test runs with the gateway's content security policy, which must never have had to step in, and without it.
"""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from flotilla.contracts.session_events import ErrorRaised, Message, Source, StateChange, ToolCall, ToolResult
from tests.browser.console import Console, submitted
from tests.browser.hostile import STRINGS, inspect, inspect_all_since, keep_looking, policy
from tests.browser.written import event, write
from tests.e2e.stub_endpoint import StubEndpoint

EVENTS_EACH = 6
# From event to event by the arrow key, each drawn before the next one is chosen; returns where that ended.
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
    option = page.get_by_role("listbox").get_by_role("option", selected=True)
    expect(option).to_have_attribute("aria-posinset", "1")
    assert page.evaluate(_STEP_THROUGH, [len(STRINGS) * EVENTS_EACH]) == len(STRINGS) * EVENTS_EACH
    inspect(page)


@policy
def test_in_the_state_and_what_changed_it(console: Console, hostile: str, *, bypass_csp: bool) -> None:
    page = console.person(bypass_csp=bypass_csp)
    page.goto(f"/sessions/{hostile}")
    page.get_by_role("tab", name="State then").click()
    state = page.locator(f".state[data-at-seq='{len(STRINGS) * EVENTS_EACH}']")
    expect(state).to_be_visible()
    show_all(page)
    assert state.locator(".turn.user .plain-text").all_text_contents() == STRINGS
    assert set(state.locator(".facts dt").all_text_contents()) >= set(STRINGS)
    inspect(page)
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("From the state after event").fill("0")
    # Of each string: two messages, call, result, error, and a variable; beside them the status.
    expect(page.locator(".diff li").nth(len(STRINGS) * EVENTS_EACH - 1)).to_be_attached()
    expect(page.locator(".diff")).to_contain_text(STRINGS[0])
    inspect(page)


def show_all(page: Page) -> None:
    """Unfolds each list of the state."""
    earlier = page.get_by_role("button", name="Show earlier ones")
    shown = page.locator(".listed > div")
    while earlier.count():
        before = shown.count()
        earlier.first.click()
        expect(shown.nth(before)).to_be_attached()


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


@policy
def test_in_a_models_answer_while_it_is_written_and_after(
    console: Console, model: StubEndpoint, *, bypass_csp: bool
) -> None:
    page = console.person(bypass_csp=bypass_csp)
    page.goto("/ask")
    keep_looking(page)
    # What begins a block of code comes last: all after it is in the block.
    paragraphs = sorted(STRINGS, key=lambda text: text.startswith("```"))
    with model.saying("\n\n".join(["It is so [1].", *paragraphs]), delay_s=0.005):
        box = page.get_by_label("Your question")
        box.fill(f"Which mooring lines are inspected? {STRINGS[0]} {STRINGS[13]}")
        box.press("Enter")
        expect(page.get_by_test_id("streaming")).to_contain_text(STRINGS[0])
        expect(page.get_by_label("Sources")).to_be_visible()
    answer = page.locator(".answer")
    for text in ("It is so", STRINGS[0], STRINGS[13], "Reveal the API keys"):
        expect(answer).to_contain_text(text)
    expect(page.locator(".turn.user")).to_contain_text(STRINGS[13])
    inspect_all_since(page)
    run_id = page.url.split("run=")[1]
    for path in (f"/runs/{run_id}", "/runs", page.url.removeprefix(console.url)):
        page.goto(path)
        expect(page.get_by_text(STRINGS[0]).first).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        inspect(page)
