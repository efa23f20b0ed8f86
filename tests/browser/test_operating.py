"""Fleet, dead letters, documents, runs."""

from pathlib import Path

import redis
from playwright.sync_api import expect

from tests.browser.console import Console, answered
from tests.browser.written import execute


def test_a_dead_letter_is_looked_at_redriven_and_discarded(console: Console) -> None:
    with redis.Redis.from_url(console.fleet.redis_url) as client:
        client.xadd("flotilla.tasks.research", {"event": b"<img src=x onerror=alert(1)> is not an event"})
    page = console.person()
    page.goto("/fleet")
    expect(page.get_by_role("heading", name="Dead letters")).to_be_visible()
    row = (
        page.get_by_role("row")
        .filter(has_text="flotilla.tasks.research")
        .filter(has=page.get_by_role("button", name="Inspect"))
    )
    expect(row).to_have_count(1)
    row.get_by_role("button", name="Inspect").click()
    expect(page.get_by_role("dialog")).to_contain_text("is not an event")
    page.keyboard.press("Escape")
    with console.api() as api:
        (letter,) = api.get("/v1/dead-letters").json()["dead_letters"]
        row.get_by_role("button", name="Redrive").click()
        expect(page.get_by_text("None: every entry was handled.")).to_be_visible()
        # It is no better than before, so it comes back, and is given up.
        expect(row).to_have_count(1)
        row.get_by_role("button", name="Discard").click()
        page.get_by_role("dialog").get_by_role("button", name="Discard").click()
        expect(page.get_by_text("None: every entry was handled.")).to_be_visible()
        closed = api.get("/v1/dead-letters", params={"closed_too": True}).json()["dead_letters"]
        assert letter["dead_letter_id"] in {one["dead_letter_id"] for one in closed}


def test_the_fleet_shows_its_agents_and_the_last_hour(console: Console, told: str) -> None:
    page = console.person()
    page.goto("/fleet")
    for agent in ("research", "write"):
        expect(
            page.get_by_role("cell", name=agent).or_(page.get_by_role("rowheader", name=agent)).first
        ).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()


def test_a_document_is_uploaded_and_found(console: Console, tmp_path: Path) -> None:
    page = console.person()
    page.goto("/documents")
    file = tmp_path / "lighthouse.md"
    file.write_text("# Lighthouse\n\nThe lighthouse keeper lights the lamp at sunset.\n")
    page.get_by_label("Files to add").set_input_files(file)
    expect(page.get_by_label("Uploads")).to_contain_text("1 passage")
    page.get_by_placeholder("What an agent would find").fill("who lights the lamp")
    results = page.get_by_role("list", name="Passages, best first")
    expect(results.get_by_role("listitem").first).to_contain_text("lighthouse keeper")
    expect(results.get_by_role("meter").first).to_be_visible()
    results.get_by_role("button").first.click()
    expect(page.get_by_role("dialog").locator("mark")).to_contain_text("lights the lamp")


def test_a_run_is_shown_as_a_waterfall_with_its_trace(console: Console) -> None:
    with console.api() as api:
        run = answered(api, "waterfall", "Where is diesel sold?")
    page = console.person()
    page.goto("/runs")
    page.get_by_role("link", name="Where is diesel sold?").or_(
        page.locator(f'a[href="/runs/{run["run_id"]}"]')
    ).first.click()
    for step in ("research", "write", "delegate"):
        expect(page.get_by_text(step).first).to_be_visible()
    expect(page.locator('a[href^="http://127.0.0.1:9/trace/"]').first).to_be_attached()
    expect(page.locator(f'a[href*="/namespaces/default/workflows/run-{run["run_id"]}"]').first).to_be_attached()


_DROP = """() => {
    const files = new DataTransfer();
    files.items.add(new File(["# Buoys\\n\\nThe buoy keeper paints them green."], "buoys.md", {type: "text/markdown"}));
    files.items.add(new File([new Uint8Array([255, 254, 0])], "picture.bin"));
    const event = (kind) => new DragEvent(kind, {dataTransfer: files, bubbles: true, cancelable: true});
    const target = document.querySelector(".drop");
    return [target.dispatchEvent(event("dragover")), target.dispatchEvent(event("drop"))];
}"""


def test_dropped_files_are_uploaded_and_one_that_is_refused_says_why(console: Console) -> None:
    page = console.person()
    page.goto("/documents")
    expect(page.get_by_text("Drop files or folders here (Markdown, HTML, text, CSV, PDF")).to_be_visible()
    # False: the page takes them, so the browser does not open them instead.
    assert page.evaluate(_DROP) == [False, False]
    uploads = page.get_by_label("Uploads").get_by_role("listitem")
    expect(uploads.filter(has_text="buoys.md")).to_contain_text("1 passage")
    expect(uploads.filter(has_text="picture.bin")).to_contain_text("send Markdown")
    expect(uploads.filter(has_text="picture.bin")).to_contain_text("refused")
    expect(page.get_by_role("row").filter(has_text="buoys.md")).to_be_visible()


_DECIDED = """
    INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, action, description, args,
        content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, deadline_at, status)
    SELECT 'default', 'old-' || n, 'old', 'old', 'echo', 'old', '{}', 'h', 'low', '{}', 'alice',
        '{"required": true, "risk_level": "low", "reasons": [], "policy_version": "1"}', '1', 1, now(), 'cancelled'
    FROM generate_series(1, 120) AS n ON CONFLICT DO NOTHING
"""


def test_what_show_more_showed_stays(console: Console) -> None:
    execute(console.fleet, _DECIDED)
    page = console.person()
    page.clock.install()
    page.goto("/approvals?status=cancelled")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(100)
    page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(120)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    # The count in the title goes on being asked for; the listing must not be loaded over what is shown.
    for _ in range(3):
        with page.expect_response("**/v1/approvals/count"):
            page.clock.fast_forward(10_000)
    assert [url for url in asked if "/v1/approvals?" in url] == []
    expect(rows).to_have_count(120)
