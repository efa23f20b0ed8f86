"""Fleet, documents, runs."""

from pathlib import Path

from playwright.sync_api import expect

from tests.browser.console import Console, answered


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
    page.get_by_label("Documents to add").set_input_files(file)
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
