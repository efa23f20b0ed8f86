"""Text that wants to be more than text, where a name, an address or an identity is expected.

Much of it the API would refuse: it is put into the tables, as somebody who got that far might.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import quote

from playwright.sync_api import Page, expect

from flotilla.contracts.session_events import Message, Source
from tests.browser.console import Console
from tests.browser.hostile import STRINGS, inspect, policy
from tests.browser.written import event, execute, write

SCRIPT, IMAGE = STRINGS[0], STRINGS[13]
ADDRESSES = [
    "javascript:alert(1)",
    " javascript:alert(2)",
    "java\tscript:alert(3)",
    "JAVASCRIPT://%0aalert(4)",
    "data:text/html,<script>alert(5)</script>",
    "data:image/svg+xml,<svg onload=alert(6)>",
    "vbscript:msgbox(7)",
    "file:///etc/passwd",
    "blob:https://evil.example/8",
    "//evil.example/9",
    "\\\\evil.example\\10",
    'https://evil.example/"onmouseover="alert(11)',
    "https://evil.example/'><img src=x onerror=alert(12)>",
    "https://evil.example\\@127.0.0.1/13",
    "ftp://evil.example/14",
    "view-source:https://evil.example/15",
]


@contextmanager
def rows(console: Console, table: str, rows: Sequence[Mapping[str, object]]) -> Iterator[None]:
    """They are in the table for as long as the block runs."""
    columns = list(rows[0])
    places = ", ".join(f"${at}" for at in range(1, len(columns) + 1))
    insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) ON CONFLICT DO NOTHING"
    key = columns[1]
    try:
        for row in rows:
            execute(console.fleet, insert, *row.values())
        yield
    finally:
        for row in rows:
            execute(console.fleet, f"DELETE FROM {table} WHERE {key} = $1", row[key])


def encoded(text: str) -> str:
    """As the table has the fields of an entry, which may be any bytes."""
    return base64.b64encode(text.encode()).decode()


def settled(page: Page, path: str) -> None:
    """The page at an address, once it shows what it has."""
    page.goto(path)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(".loading")).to_have_count(0)


@policy
def test_in_a_dead_letter(console: Console, *, bypass_csp: bool) -> None:
    text = "\n".join(STRINGS)
    letter = {
        "tenant_id": "default", "dead_letter_id": "hostile", "stream": SCRIPT, "consumer_group": IMAGE,
        "entry_id": SCRIPT, "task_id": IMAGE, "run_id": SCRIPT, "event_type": IMAGE, "reason": SCRIPT, "error": text,
        "attempts": 5, "body": text.encode(), "fields": json.dumps({encoded(SCRIPT): encoded(text)}),
    }  # fmt: skip
    page = console.person(bypass_csp=bypass_csp)
    with rows(console, "flotilla.dead_letters", [letter]):
        settled(page, "/fleet")
        row = page.get_by_role("row").filter(has_text=SCRIPT).filter(has=page.get_by_role("button", name="Inspect"))
        expect(row).to_contain_text(STRINGS[1])
        inspect(page)
        row.get_by_role("button", name="Inspect").click()
        dialog = page.get_by_role("dialog")
        body = dialog.get_by_label("Body", exact=True)
        expect(body).to_contain_text(SCRIPT)
        for button in dialog.get_by_role("button", name="Show all").all():
            button.click()
        assert body.text_content() == text
        assert dialog.locator("h3:has-text('Error') + pre").text_content() == text
        expect(dialog.get_by_label("Fields", exact=True)).to_contain_text(SCRIPT)
        inspect(page)
        page.keyboard.press("Escape")
        row.get_by_role("button", name="Discard").click()
        inspect(page)


@policy
def test_in_the_names_of_agents_sessions_and_people(console: Console, *, bypass_csp: bool) -> None:
    sessions = [
        {"tenant_id": "default", "session_id": text, "user_id": text, "metadata": json.dumps({text: text})}
        for text in STRINGS[::6]
    ]
    agents = [
        {
            "version": text, "name": text, "instance": text, "stream": text, "consumer_group": text, "concurrency": 1,
            "input_schema": json.dumps({"title": text}), "output_schema": json.dumps({"title": text}),
        }
        for text in STRINGS[::6]
    ]  # fmt: skip
    page = console.person(bypass_csp=bypass_csp)
    with rows(console, "flotilla.sessions", sessions), rows(console, "flotilla_ops.agents", agents):
        settled(page, "/fleet")
        expect(page.get_by_role("row").filter(has_text=SCRIPT).first).to_be_visible()
        for summary in page.locator("summary").all():
            summary.click()
        inspect(page)
        settled(page, "/sessions")
        expect(page.get_by_role("link", name=SCRIPT)).to_be_visible()
        inspect(page)
        settled(page, f"/sessions/{quote(SCRIPT, safe='')}")
        inspect(page)


@policy
def test_in_all_that_a_run_says_of_itself(console: Console, *, bypass_csp: bool) -> None:
    session = {"tenant_id": "default", "session_id": "hostile-run", "user_id": IMAGE}
    run = {
        "tenant_id": "default", "run_id": "hostile-run", "session_id": "hostile-run", "user_id": IMAGE,
        "workflow_id": f"../../{SCRIPT}", "query": "\n".join(STRINGS), "status": "error",
        "request": json.dumps({}), "error": json.dumps({"type": SCRIPT, "message": "\n".join(STRINGS)}),
        "traceparent": f"00-{SCRIPT}-{IMAGE}-01",
    }  # fmt: skip
    page = console.person(bypass_csp=bypass_csp)
    with rows(console, "flotilla.sessions", [session]), rows(console, "flotilla.runs", [run]):
        settled(page, "/runs")
        expect(page.locator('a[href="/runs/hostile-run"]')).to_contain_text(SCRIPT)
        inspect(page)
        settled(page, "/runs/hostile-run")
        assert page.locator(".plain-text").all_text_contents() == ["\n".join(STRINGS)] * 2
        hrefs = page.locator("a[target=_blank]").evaluate_all("all => all.map((one) => one.href)")
        assert all(href.startswith("http://127.0.0.1:") and "<" not in href and "/../" not in href for href in hrefs)
        inspect(page)


@policy
def test_in_the_addresses_of_sources_and_in_links(console: Console, *, bypass_csp: bool) -> None:
    sources = [
        Source(document_id=f"none-{at}", title=address, uri=address, passage_id="p", start=0, end=1, score=1.0,
               quote=address)
        for at, address in enumerate(ADDRESSES)
    ]  # fmt: skip
    links = "\n\n".join(f"[press {at}]({address}) <{address}> {address}" for at, address in enumerate(ADDRESSES))
    session = f"addresses-{bypass_csp}".lower()
    write(console.fleet, session, [event("message", Message(role="assistant", content=links, sources=sources))])
    page = console.person(bypass_csp=bypass_csp)
    settled(page, f"/sessions/{session}?at=1")
    opens = page.get_by_label("Sources").get_by_role("button")
    expect(opens).to_have_count(len(ADDRESSES))
    for at, address in enumerate(ADDRESSES):
        opens.nth(at).click()
        dialog = page.get_by_role("dialog")
        assert dialog.locator("blockquote").text_content() == address
        inspect(page)
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
    targets = page.locator(".markdown a").evaluate_all("all => all.map((one) => [one.protocol, one.target, one.rel])")
    assert targets
    assert all(target == ["https:", "_blank", "noopener noreferrer nofollow"] for target in targets)


@policy
def test_in_the_consoles_own_addresses(console: Console, *, bypass_csp: bool) -> None:
    page = console.person(bypass_csp=bypass_csp)
    for at, text in enumerate(STRINGS[::4]):
        # A dot segment is not an id, and no browser sends it.
        name = quote(text, safe="")
        kind = ("sessions", "runs", "approvals")[at % 3]
        settled(page, f"/{kind}/{name}?at={name}&q={name}&session={name}&run={name}#{name}")
        inspect(page)
    for path in ("ask?session=", "documents?q=", "runs?session=", "sessions?q="):
        settled(page, f"/{path}{quote(SCRIPT, safe='')}")
        inspect(page)
    visitor = console.visitor(bypass_csp=bypass_csp)
    for address in ADDRESSES:
        visitor.goto(f"/login?failed={quote(SCRIPT, safe='')}&next={quote(address, safe='')}")
        expect(visitor.get_by_label("API key")).to_be_visible()
        assert visitor.url.startswith(f"{console.url}/login")
        inspect(visitor)
    visitor.get_by_label("API key").fill(console.keys["alice"])
    visitor.get_by_label("API key").press("Enter")
    expect(visitor.get_by_role("navigation", name="Pages")).to_be_visible()
    assert visitor.url.startswith(f"{console.url}/")
