"""Orders that could not be undone, and the person who sees to them on the page."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.bank import REFUSAL, Bank, closed_bank, operators_of
from tests.browser.console import Console, until

NAME = "release funds"


@pytest.fixture
def bank(console: Console) -> Iterator[Bank]:
    with closed_bank(console) as closed:
        yield closed


def row_of(page: Page, order_id: str) -> Locator:
    return page.get_by_role("row").filter(has=page.locator(f'a[href="/sessions/{order_id}"]'))


def status_of(console: Console, order_id: str) -> tuple[str, str]:
    """Of the order, and of the step that could not be undone."""
    with console.api() as api:
        order = api.get(f"/v1/orders/{order_id}").json()
    return order["status"], order["steps"][0]["status"]


def test_a_retry_fails_again_until_the_cause_is_fixed(console: Console, bank: Bank) -> None:
    order_id = bank.parked_order()
    page = console.person()
    page.goto("/orders")
    row = row_of(page, order_id)
    expect(row).to_contain_text("IdentityNotVerified")
    expect(row.get_by_text("parked", exact=True)).to_be_visible()
    expect(row).to_contain_text(REFUSAL)
    row.get_by_role("button", name=f"Retry: {NAME}").click()
    expect(page.get_by_text(f"{NAME}: retry is recorded.")).to_be_attached()
    expect(row.get_by_role("button", name=f"Retry: {NAME}")).to_have_count(0)
    bank.park(order_id)
    expect(row).to_contain_text(REFUSAL)
    bank.open()
    row.get_by_role("button", name=f"Retry: {NAME}").click()
    expect(row.get_by_text("rejected", exact=True)).to_be_visible()
    expect(row.get_by_text("compensated", exact=True)).to_have_count(2)
    assert bank.available() == 10_000
    assert [(verb, who) for verb, who, _ in operators_of(console, order_id)] == [("retry", "alice")] * 2


@pytest.mark.parametrize(
    ("verb", "button", "left"), [("Skip", "Skip it", "skipped"), ("Resolve", "Mark as done", "resolved")]
)
def test_a_compensation_is_given_up_or_done_by_hand_with_a_reason(
    console: Console, bank: Bank, verb: str, button: str, left: str
) -> None:
    order_id = bank.parked_order()
    page = console.person("bob")
    page.goto("/fleet")
    row = row_of(page, order_id)
    row.get_by_role("button", name=f"{verb}: {NAME}").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name=button)).to_be_disabled()
    dialog.get_by_role("textbox").fill("the account is closed")
    dialog.get_by_role("button", name=button).click()
    expect(dialog).to_have_count(0)
    # The fleet's page lists what waits for a person, and this does no longer.
    expect(row).to_have_count(0)
    until(lambda: status_of(console, order_id) == ("rejected", left))
    page.goto("/orders")
    expect(row_of(page, order_id).get_by_text(left, exact=True)).to_be_visible()
    assert operators_of(console, order_id) == [(verb.lower(), "bob", "the account is closed")]
    assert bank.available() == 10_000 - 2_500


def test_two_people_decide_and_the_second_one_sees_it(console: Console, bank: Bank) -> None:
    order_id = bank.parked_order()
    pages = {name: console.person(name) for name in ("alice", "bob")}
    for page in pages.values():
        page.goto("/orders")
        expect(row_of(page, order_id)).to_be_visible()
        # From here on its listing does not come any more: the page shows what it was.
        page.route(re.compile(r"/v1/orders(\?|$)"), lambda _: None)
        row_of(page, order_id).get_by_role("button", name=f"Resolve: {NAME}").click()
        page.get_by_role("dialog").get_by_role("textbox").fill("paid by hand")
    pages["alice"].get_by_role("dialog").get_by_role("button", name="Mark as done").click()
    until(lambda: status_of(console, order_id) == ("rejected", "resolved"))
    pages["bob"].get_by_role("dialog").get_by_role("button", name="Mark as done").click()
    expect(pages["bob"].get_by_role("dialog")).to_contain_text("nothing is left to do")
    assert operators_of(console, order_id) == [("resolve", "alice", "paid by hand")]


def test_who_may_only_look_sees_the_cause_and_no_button(console: Console, bank: Bank) -> None:
    order_id = bank.parked_order()
    if "vera" not in console.keys:
        with console.api("admin") as admin:
            body = {"name": "vera", "roles": ["viewer"], "person": True}
            console.keys["vera"] = admin.post("/v1/keys", json=body).json()["key"]
    page = console.person("vera")
    page.goto("/orders")
    row = row_of(page, order_id)
    expect(row).to_contain_text(REFUSAL)
    expect(row.get_by_role("button", name=NAME)).to_have_count(0)
