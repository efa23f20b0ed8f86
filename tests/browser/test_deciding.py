"""The inbox and the decision page."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.console import Console, submitted, until


@pytest.fixture
def carol(console: Console) -> str:
    """A third person who may approve."""
    if "carol" not in console.keys:
        with console.api("admin") as admin:
            body = {"name": "carol", "roles": ["operator", "approver"], "person": True}
            console.keys["carol"] = admin.post("/v1/keys", json=body).json()["key"]
    return "carol"


def opened(console: Console, name: str, action_id: str) -> Page:
    page = console.person(name)
    page.goto(f"/approvals/{action_id}")
    expect(page.get_by_role("heading", name="What will be executed")).to_be_visible()
    return page


def test_an_approver_sees_exactly_what_will_be_executed_and_approves_it(console: Console) -> None:
    with console.api() as api:
        action_id = submitted(api, args={"text": "to be approved"}, description="Because of a trial")
        approval = api.get(f"/v1/approvals/{action_id}").json()
        page = console.person("bob")
        page.goto("/approvals")
        expect(page).to_have_title(re.compile(r"^\(\d+\) Approvals · Flotilla$"))
        page.locator(f'a[href="/approvals/{action_id}"]').click()
        expect(page.locator(".args").get_by_text("to be approved")).to_be_visible()
        expect(page.get_by_test_id("content-hash")).to_have_text(approval["content_hash"])
        expect(page.get_by_text("Because of a trial")).to_be_visible()
        page.get_by_role("button", name="Approve").click()
        expect(page.get_by_role("heading", name="Outcome")).to_be_visible()
        expect(page.get_by_text("completed")).to_be_visible()
        assert api.get(f"/v1/actions/{action_id}").json()["result"] == {"text": "to be approved"}


def test_a_rejection_needs_a_reason_which_is_recorded(console: Console) -> None:
    with console.api() as api:
        action_id = submitted(api, args={"text": "to be rejected"})
        page = opened(console, "bob", action_id)
        expect(page.get_by_role("button", name="Reject")).to_be_disabled()
        page.get_by_label("Reason").fill("not today")
        page.get_by_role("button", name="Reject").click()
        expect(page.get_by_text("“not today”")).to_be_visible()
        assert api.get(f"/v1/approvals/{action_id}").json()["status"] == "rejected"


def test_an_edit_shows_the_difference_and_another_person_approves_it(console: Console, carol: str) -> None:
    with console.api() as api:
        action_id = submitted(api, args={"text": "first text"})
        other = opened(console, carol, action_id)
        page = opened(console, "bob", action_id)
        page.get_by_role("button", name="Edit…").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("textbox").fill("second text")
        dialog.get_by_role("button", name="Review the change").click()
        change = dialog.get_by_role("group", name="What you change")
        expect(change).to_contain_text("first text")
        expect(change).to_contain_text("second text")
        dialog.get_by_role("button", name="Send the edit").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.get_by_role("button", name="Approve")).to_be_disabled()
        # A user who had the page open must look at the change first.
        expect(other.get_by_text("has changed since you opened this")).to_be_visible()
        expect(other.get_by_role("button", name="Approve")).to_be_disabled()
        other.get_by_role("button", name="I have seen the change").click()
        other.get_by_role("button", name="Approve").click()
        expect(other.get_by_text("completed")).to_be_visible()
        assert api.get(f"/v1/actions/{action_id}").json()["result"] == {"text": "second text"}


def test_two_people_race_and_the_second_one_sees_it_at_once(console: Console, carol: str) -> None:
    with console.api() as api:
        action_id = submitted(api, args={"text": "raced"})
        one, two = opened(console, "bob", action_id), opened(console, carol, action_id)
        expect(two.get_by_role("button", name="Approve")).to_be_enabled()
        one.get_by_role("button", name="Approve").click()
        expect(two.get_by_text("there is nothing left to decide")).to_be_visible()
        for name in ("Approve", "Reject"):
            expect(two.get_by_role("button", name=name)).to_be_disabled()
        expect(two.locator(".votes")).to_contain_text("bob")


def test_two_clicks_in_the_same_instant_leave_one_decision(console: Console, carol: str) -> None:
    with console.api() as api:
        action_id = submitted(api, args={"text": "at once"})
        pages = [opened(console, name, action_id) for name in ("bob", carol)]
        for page in pages:
            page.evaluate("""() => {
                const buttons = [...document.querySelectorAll("button")];
                const button = buttons.find((one) => one.textContent.includes("Approve"));
                setTimeout(() => button.click(), 300);
            }""")
        for page in pages:
            expect(page.get_by_text("there is nothing left to decide").first).to_be_visible()
        done = until(lambda: api.get(f"/v1/actions/{action_id}").json()["result"])
        assert done == {"text": "at once"}
        assert len(api.get(f"/v1/approvals/{action_id}").json()["votes"]) == 1


def test_nobody_decides_on_what_they_asked_for(console: Console) -> None:
    with console.api() as api:
        action_id = submitted(api, args={"text": "mine"})
    page = opened(console, "alice", action_id)
    expect(page.get_by_text("You asked for this: somebody else decides.")).to_be_visible()
    expect(page.get_by_role("button", name="Approve")).to_be_disabled()


def test_a_decision_can_be_made_by_keyboard_alone(console: Console) -> None:
    with console.api() as api:
        action_id = submitted(api, args={"text": "by keyboard"}, description="keyboard")
        page = console.person("bob")
        page.goto("/approvals")
        expect(page.get_by_text("keyboard", exact=True)).to_be_visible()
        tab_to(page, lambda focused: focused["href"] == f"/approvals/{action_id}")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="What will be executed")).to_be_visible()
        tab_to(page, lambda focused: focused["text"] == "Approve")
        page.keyboard.press("Enter")
        expect(page.get_by_text("completed")).to_be_visible()
        assert api.get(f"/v1/approvals/{action_id}").json()["votes"][0]["subject"] == "bob"


_FOCUSED = """() => {
    const one = document.activeElement;
    const style = getComputedStyle(one);
    return {
        href: one.getAttribute("href"), text: one.textContent.trim(), tag: one.tagName,
        isShown: style.outlineStyle !== "none" || style.boxShadow !== "none",
    };
}"""


def tab_to(page: Page, is_it: object) -> None:
    """Presses Tab until what has the focus fits; each stop on the way has to show that it has the focus."""
    assert callable(is_it)
    for _ in range(120):
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        assert focused["tag"] == "BODY" or focused["isShown"], focused
        if is_it(focused):
            return
    raise AssertionError("120 stops, and none of them fits")
