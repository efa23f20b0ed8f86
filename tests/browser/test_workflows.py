"""Workflows of installed packages: the form made from a schema, the steps of a run, and questions to people."""

import json
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.console import Console, until

QUESTIONS = ["mooring lines", "diesel", "pilots", "tides", "cranes"]
FILLED = {"topic": "Harbour «Süd»\n<b>1</b>", "share": "0.25", "note": "as <i>it</i> is", "tags": '{"a": "1"}'}


def opened_form(console: Console, name: str = "alice") -> Page:
    page = console.person(name)
    page.goto("/workflows?workflow=survey")
    expect(page.get_by_role("heading", name="survey, version 1")).to_be_visible()
    return page


def test_a_form_has_a_field_for_each_kind_and_the_run_gets_exactly_what_was_typed(console: Console) -> None:
    page = opened_form(console)
    expect(page.get_by_label("Depth")).to_have_value("short")
    expect(page.get_by_label("At Once")).to_have_value("3")
    expect(page.get_by_label("Ask Somebody")).to_have_value("true")
    for label, text in FILLED.items():
        page.get_by_label(label.title()).fill(text)
    page.get_by_label("Questions").fill(json.dumps(QUESTIONS))
    page.get_by_label("Depth").select_option("long")
    page.get_by_label("Ask Somebody").select_option("false")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name="Output")).to_be_visible()
    with console.api() as api:
        run = until(lambda: _ended(api.get(f"/v1/runs/{page.url.rsplit('/', 1)[-1]}").json()))
    survey = {**FILLED, "share": 0.25, "tags": {"a": "1"}, "questions": QUESTIONS, "depth": "long", "at_once": 3}
    assert run["output"] == {"survey": {**survey, "ask_somebody": False}, "passages": 5, "verdict": None}
    assert page.locator("main b, main i").count() == 0


def test_what_does_not_fit_the_schema_is_said_at_its_field_and_nothing_starts(console: Console) -> None:
    page = opened_form(console)
    page.get_by_label("Questions").fill("[1, 2")
    page.get_by_label("At Once").fill("three")
    page.get_by_role("button", name="Start").click()
    for label in ("Questions", "At Once"):
        expect(page.get_by_label(label)).to_have_attribute("aria-invalid", "true")
    # What only the gateway sees is refused there, and shown.
    page.get_by_label("Topic").fill("x")
    page.get_by_label("Questions").fill("[1, 2]")
    page.get_by_label("At Once").fill("3")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("alert")).to_contain_text("questions")
    expect(page).to_have_url(f"{console.url}/workflows?workflow=survey")


def test_the_waterfall_shows_the_fan_out_and_the_form_of_a_question_ends_the_run(console: Console) -> None:
    page = opened_form(console)
    page.get_by_label("Topic").fill("harbours")
    page.get_by_label("Questions").fill(json.dumps(QUESTIONS))
    page.get_by_label("At Once").fill("5")
    page.get_by_role("button", name="Start").click()
    rows = page.locator(".waterfall-table tbody tr")
    names = rows.locator("th")
    for name in ("research", "research:2", "research:5", "ask person"):
        expect(names.filter(has_text=name).first).to_be_visible()
    delegations = page.locator(".waterfall-table .bar.delegation")
    expect(delegations).to_have_count(5)
    boxes = [delegations.nth(n).bounding_box() for n in range(5)]
    assert all(boxes)
    lefts = [box["x"] for box in boxes if box]
    rights = [box["x"] + box["width"] for box in boxes if box]
    assert max(lefts) < min(rights), "five asks of one moment overlap"
    run_url = page.url
    page.goto("/questions")
    page.get_by_role("link", name="Is the survey of harbours good?").first.click()
    page.get_by_label("Is Good").select_option("true")
    page.get_by_label("Why").select_option("readable")
    expect(page.get_by_label("Score")).to_have_value("3")
    page.get_by_label("Score").fill("5")
    page.get_by_role("button", name="Answer").click()
    expect(page.get_by_text("answered").first).to_be_visible()
    page.goto(run_url)
    expect(page.get_by_text("success").first).to_be_visible()
    with console.api() as api:
        run = api.get(f"/v1/runs/{run_url.rsplit('/', 1)[-1]}").json()
    verdict = run["output"]["verdict"]
    assert (verdict["is_good"], verdict["why"], verdict["score"]) == (True, "readable", 5)


def _ended(run: dict[str, Any]) -> dict[str, Any] | None:
    return run if run["status"] in ("success", "error") else None
