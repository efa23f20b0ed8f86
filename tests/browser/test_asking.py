"""A question, its answer as it is written, and what it rests on."""

import signal
from itertools import pairwise

import httpx
from playwright.sync_api import Page, expect

from tests.browser.console import Console, until
from tests.e2e.stub_endpoint import StubEndpoint

ANSWER = "The harbour master inspects every mooring line, on the first Monday of each month [1]. That is all."
LONG = " ".join(f"word{n}" for n in range(1, 41)) + " and so on. Mooring lines are inspected [1]."
# Keeps every text that the answer had while it was written.
NOTE = """() => {
    window.__texts = [];
    new MutationObserver(() => {
        const text = document.querySelector("[data-testid=streaming]")?.textContent.trim();
        if (text && text !== window.__texts.at(-1)) window.__texts.push(text);
    }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def ask(page: Page, question: str) -> None:
    box = page.get_by_label("Your question")
    box.fill(question)
    box.press("Enter")


def is_ready(console: Console) -> bool:
    """Whether the gateway answers (again)."""
    try:
        return httpx.get(f"{console.url}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_tokens_appear_as_they_come_and_a_source_opens_the_cited_passage(console: Console, model: StubEndpoint) -> None:
    page = console.person()
    page.goto("/ask")
    page.evaluate(NOTE)
    with model.saying(ANSWER, delay_s=0.25):
        ask(page, "Who inspects the mooring lines?")
        streaming = page.get_by_test_id("streaming")
        expect(streaming).to_contain_text("harbour master")
        expect(page.get_by_label("Sources")).to_be_visible()
    expect(page.get_by_text("That is all.")).to_be_visible()
    texts = page.evaluate("window.__texts")
    assert len(texts) > 3, texts
    assert all(later.startswith(earlier[:20]) for earlier, later in pairwise(texts))
    expect(page.get_by_text("from the model's token probabilities")).to_be_visible()
    page.get_by_label("Sources").get_by_role("button").first.click()
    mark = page.get_by_role("dialog").locator("mark")
    expect(mark).to_contain_text("inspected on the first Monday")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_stream_goes_on_without_gap_or_double_when_the_gateway_is_killed(
    console: Console, model: StubEndpoint
) -> None:
    page = console.person()
    page.goto("/ask")
    page.evaluate(NOTE)
    with model.saying(LONG, delay_s=0.5):
        ask(page, "Which mooring lines are inspected slowly?")
        expect(page.get_by_test_id("streaming")).to_contain_text("word3")
        console.fleet.signal("gateway", signal.SIGKILL)
        try:
            expect(page.get_by_text("reconnecting…")).to_be_visible()
        finally:
            until(lambda: is_ready(console), timeout_s=120)
        expect(page.get_by_text("reconnecting…")).to_have_count(0)
        expect(page.get_by_text("word40 ")).to_be_visible()
        expect(page.get_by_label("Sources")).to_be_visible()
    texts = page.evaluate("window.__texts")
    for text in texts:
        assert LONG.startswith(text.removesuffix("1").removesuffix("[").strip()), text
    run_id = page.url.split("run=")[1]
    session_id = page.url.split("session=")[1].split("&")[0]
    with console.api() as api:
        run = api.get(f"/v1/runs/{run_id}").json()
        events = api.get(f"/v1/sessions/{session_id}/events").json()["events"]
    assert run["status"] == "success"
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    page.goto(f"/sessions/{session_id}")
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_count(len(events))
    console.watched[-1].errors.clear()  # Chromium tells of the connection that broke


def test_a_session_shows_a_run_live(console: Console, model: StubEndpoint, told: str) -> None:
    page = console.person("bob")
    page.goto(f"/sessions/{told}")
    expect(page.get_by_text("Time travel: event")).to_be_visible()
    with console.api() as api:
        head = api.get(f"/v1/sessions/{told}").json()["head_seq"]
        with model.saying("A late answer that is written slowly [1].", delay_s=0.5):
            run = api.post(f"/v1/sessions/{told}/runs", json={"query": "And what about fuel?"}).json()
            expect(page.get_by_text("live", exact=True)).to_be_visible()
            expect(page.get_by_label("Answer being written")).to_contain_text("late answer")
            expect(page.get_by_text("live", exact=True)).to_have_count(0)
        assert api.get(f"/v1/runs/{run['run_id']}").json()["status"] == "success"
        head = api.get(f"/v1/sessions/{told}").json()["head_seq"]
    expect(page.get_by_role("listbox").get_by_role("option", selected=True)).to_have_attribute(
        "aria-posinset", str(head)
    )


def test_a_run_that_is_cancelled_reports_it(console: Console, model: StubEndpoint) -> None:
    page = console.person()
    page.goto("/ask")
    with model.saying(LONG, delay_s=0.5):
        ask(page, "Which mooring line takes long?")
        expect(page.get_by_test_id("streaming")).to_contain_text("word2")
        page.get_by_role("link", name="How this answer came about").click()
        page.get_by_role("button", name="Cancel the run").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
        expect(page.get_by_text("cancelled").first).to_be_visible()


def test_a_question_that_is_too_long_is_kept_whole_and_not_sent(console: Console) -> None:
    page = console.person()
    page.goto("/ask")
    box = page.get_by_label("Your question")
    # Each is one character, and two of JavaScript's.
    ask(page, "🚢" * 32_007)
    expect(page.get_by_role("status").filter(has_text="too many")).to_have_text(
        "7 characters too many: a question has at most 32,000."
    )
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_disabled()
    expect(page.get_by_role("article")).to_have_count(0)
    assert len(box.input_value()) == 32_007
    box.fill("🚢" * 32_000)
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
