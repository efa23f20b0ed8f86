"""The page Archives: a history goes into a file that one saves, and comes back from it."""

import gzip
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.console import Console, answered, until

TOMORROW = "2999-01-01"


def archivable(console: Console, session: str) -> bool:
    """Whether the session can be archived: it is signed to its end."""
    with console.api("admin") as api:
        asked = {"before": f"{TOMORROW}T00:00:00Z", "limit": "100"}
        found = api.get("/v1/audit/archivable", params=asked).json()["sessions"]
        return session in {one["session_id"] for one in found}


def made(page: Page, folder: Path) -> Path:
    """The file of the sessions that are listed, as the browser saved it."""
    page.get_by_role("button", name="Archive").click()
    dialog = page.get_by_role("dialog")
    with page.expect_download() as saving:
        dialog.get_by_role("button", name="Make the file").click()
    file = folder / saving.value.suggested_filename
    saving.value.save_as(file)
    return file


def damaged(file: Path) -> Path:
    """The file with a word changed."""
    other = file.with_name("other.gz")
    other.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b"diesel", b"petrol")))
    return other


def test_a_history_goes_to_a_saved_file_and_comes_back(console: Console, tmp_path: Path) -> None:
    session = "archived-in-the-browser"
    with console.api() as api:
        answered(api, session, "Where is diesel sold?")
        events = api.get(f"/v1/sessions/{session}/events").json()["events"]
    until(lambda: archivable(console, session))
    page = console.person("admin")
    page.goto("/archives")
    page.get_by_label("Without an event since").fill(TOMORROW)
    expect(page.get_by_role("table", name="Sessions that can be archived")).to_contain_text(session)
    file = made(page, tmp_path)
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("The saved file").set_input_files(damaged(file))
    dialog.get_by_role("button", name="Archive").click()
    expect(dialog.get_by_role("alert")).to_contain_text("nothing was archived")
    dialog.get_by_label("The saved file").set_input_files(file)
    dialog.get_by_label("Where it is kept").fill("the safe")
    dialog.get_by_role("button", name="Archive").click()
    expect(dialog).to_have_count(0)
    row = page.get_by_role("table", name="Archived sessions").get_by_role("row").filter(has_text=session)
    expect(row).to_contain_text("archived")
    expect(row).to_contain_text("the safe")
    with console.api() as api:
        assert api.get(f"/v1/sessions/{session}/events").json()["code"] == "session_archived"
    assert console.fleet.cli("audit", "verify", "--file", str(file)).returncode == 0
    row.get_by_role("button", name=f"Restore {session}").click()
    dialog.get_by_label("File of the archive").set_input_files(damaged(file))
    dialog.get_by_role("button", name="Restore").click()
    expect(dialog.get_by_role("alert")).to_contain_text("another file than the safe")
    dialog.get_by_label("File of the archive").set_input_files(file)
    dialog.get_by_role("button", name="Restore").click()
    expect(dialog).to_have_count(0)
    expect(row).to_contain_text("restored")
    with console.api() as api:
        assert api.get(f"/v1/sessions/{session}/events").json()["events"] == events
    with console.api("bob") as bob:
        assert bob.get("/v1/audit/archives").status_code == 403
    other = console.person("bob")
    other.goto("/archives")
    expect(other.get_by_text("For administrators")).to_be_visible()
