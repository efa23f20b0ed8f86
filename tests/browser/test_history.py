"""Time travel, forks, roll back and proof."""

from playwright.sync_api import expect

from flotilla.contracts.session_events import Message, StateChange
from tests.browser.console import Console, until
from tests.browser.written import event, write


def chapter(session_id: str, console: Console, messages: int = 6) -> str:
    """A session of `messages` messages, each followed by a change of a variable."""
    events = [
        part
        for n in range(1, messages + 1)
        for part in (
            event("message", Message(role="user", content=f"message {n}")),
            event("state_change", StateChange(change="counted", set={"count": n})),
        )
    ]
    write(console.fleet, session_id, events)
    return session_id


def test_the_slider_shows_the_state_at_any_event(console: Console) -> None:
    session_id = chapter("travelled", console)
    page = console.person()
    page.goto(f"/sessions/{session_id}")
    page.get_by_role("tab", name="State then").click()
    state = page.locator(".state")
    slider = page.get_by_role("slider")
    expect(state).to_contain_text("message 6")
    slider.focus()
    with console.api() as api:
        for key, seq in (("ArrowLeft", 11), ("ArrowLeft", 10), ("ArrowLeft", 9), ("Home", 0), ("ArrowRight", 1)):
            slider.press(key)
            expect(page.locator(f'.state[data-at-seq="{seq}"][aria-busy="false"]')).to_be_visible()
            told = api.get(f"/v1/sessions/{session_id}/state", params={"at_seq": seq}).json()
            for message in told["messages"]:
                expect(state.get_by_text(message["content"], exact=True)).to_be_visible()
            expect(state.locator("article")).to_have_count(len(told["messages"]))
    assert page.url.endswith("?at=1")
    slider.fill("5")
    expect(page.locator('.state[data-at-seq="5"]')).to_contain_text("message 3")
    slider.press("End")
    expect(page.locator('.state[data-at-seq="12"]')).to_contain_text("message 6")


def test_two_points_are_compared(console: Console) -> None:
    session_id = chapter("compared", console)
    page = console.person()
    page.goto(f"/sessions/{session_id}?at=4")
    page.get_by_role("button", name="Compare from here").click()
    page.get_by_role("slider").fill("8")
    diff = page.locator(".diff")
    expect(diff.locator("del")).to_have_text("2")
    expect(diff.locator("ins")).to_have_text("4")
    expect(diff.get_by_text("user: message 3")).to_be_visible()
    expect(diff.get_by_text("user: message 4")).to_be_visible()
    expect(diff.get_by_text("user: message 5")).to_have_count(0)


def test_a_fork_goes_on_by_itself_and_leaves_its_parent_as_it_was(console: Console, told: str) -> None:
    with console.api() as api:
        head = api.get(f"/v1/sessions/{told}").json()["head_seq"]
        page = console.person()
        page.goto(f"/sessions/{told}?at={head - 1}")
        page.get_by_role("button", name="Fork here").click()
        page.get_by_role("dialog").get_by_label("Id of the new session").fill("told-again")
        page.get_by_role("dialog").get_by_role("button", name="Fork", exact=True).click()
        expect(page.get_by_text(f"fork of {told}")).to_be_visible()
        assert page.url.endswith("/sessions/told-again")
        lineage = page.locator(".lineage")
        expect(lineage).to_contain_text(told)
        expect(lineage.locator('[aria-current="true"]')).to_contain_text("told-again")
        page.get_by_role("link", name="Continue").click()
        expect(page.get_by_text("Who inspects the mooring lines?").first).to_be_visible()
        box = page.get_by_label("Your question")
        box.fill("And where is diesel sold?")
        box.press("Enter")
        expect(page.get_by_label("Confidence")).to_be_visible()
        forked = api.get("/v1/sessions/told-again").json()
        assert forked["forked_at_seq"] == head - 1
        assert forked["head_seq"] > head
        assert api.get(f"/v1/sessions/{told}").json()["head_seq"] == head


def test_a_rollback_is_one_more_event_and_removes_nothing(console: Console) -> None:
    session_id = chapter("rolled", console)
    page = console.person()
    page.goto(f"/sessions/{session_id}?at=4")
    page.get_by_role("button", name="Roll back to here").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_count(13)
    page.get_by_role("tab", name="State then").click()
    expect(page.locator(".state article")).to_have_count(2)


def test_events_are_found_by_kind_and_by_word(console: Console) -> None:
    session_id = chapter("searched", console)
    page = console.person()
    page.goto(f"/sessions/{session_id}")
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_count(12)
    page.get_by_role("group", name="Kinds of event").get_by_role("button").first.click()
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_count(6)
    page.get_by_label("Find in events").fill("message 4")
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_count(1)


def test_a_session_is_proven_and_exported(console: Console) -> None:
    session_id = chapter("proven", console)
    with console.api() as api:

        def anchored() -> bool:
            verdict = api.get("/v1/audit/verify", params={"session_id": session_id}).json()
            return bool(verdict.get("ok")) and verdict["sessions"][0]["verified_seq"] == 12

        until(anchored)
    page = console.person()
    page.goto(f"/sessions/{session_id}")
    expect(page.get_by_text("verified").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Export JSON lines").click()
    lines = download.value.path().read_text().splitlines()
    assert sum('"message ' in line for line in lines) == 6


def test_an_owner_shares_a_session_and_hands_it_over(console: Console) -> None:
    session_id = "shared-here"
    with console.api() as api, console.api("admin") as admin:
        api.post("/v1/sessions", json={"session_id": session_id}).raise_for_status()
        nora = {"name": "nora", "roles": ["viewer"], "person": True}
        console.keys["nora"] = admin.post("/v1/keys", json=nora).raise_for_status().json()["key"]
        page = console.person()
        page.goto(f"/sessions/{session_id}")
        panel = page.get_by_role("region", name="Access")
        panel.get_by_role("button", name="Make private").click()
        expect(panel.get_by_text("private", exact=True)).to_be_visible()
        for kind, name, right in (("a person", "nora", "read"), ("a group", "support", "read and write")):
            panel.get_by_label("Share with").select_option(kind)
            panel.get_by_label("Name").fill(name)
            panel.get_by_label("Who may").select_option(right)
            panel.get_by_role("button", name="Share", exact=True).click()
            expect(panel.get_by_role("row").filter(has_text=name)).to_be_visible()
        # Who reads it sees no panel.
        reader = console.person("nora")
        reader.goto(f"/sessions/{session_id}")
        expect(reader.get_by_text("begun by")).to_be_visible()
        reader.wait_for_load_state("networkidle")
        expect(reader.get_by_role("region", name="Access")).to_have_count(0)
        panel.get_by_label("Name").fill("x\u202ey")
        panel.get_by_role("button", name="Share", exact=True).click()
        expect(panel.get_by_role("alert")).to_be_visible()
        panel.get_by_role("button", name="Remove nora").click()
        expect(panel.get_by_role("row").filter(has_text="nora")).to_have_count(0)
        panel.get_by_role("button", name="Hand over…").click()
        page.get_by_role("dialog").get_by_label("New owner").fill("bob")
        page.get_by_role("dialog").get_by_role("button", name="Hand over").click()
        expect(panel.get_by_text("bob", exact=True)).to_be_visible()
        access = api.get(f"/v1/sessions/{session_id}/access").json()
    assert (access["owner"]["name"], access["visibility"]) == ("bob", "private")
    assert [(one["kind"], one["name"]) for one in access["writers"]] == [("group", "support"), ("user", "alice")]
