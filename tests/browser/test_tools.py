"""Tools of MCP servers in the console: read, allowed, compared, revoked."""

import hashlib
import json

from playwright.sync_api import expect

from tests.browser.console import Console
from tests.browser.written import execute, value_of

OFFER = """
INSERT INTO flotilla_ops.offered_tools (server, tool, sha256, definition, risk, tenants)
VALUES ('till', 'refund', $1, $2, 'medium', '{*}')
ON CONFLICT (server, tool) DO UPDATE SET sha256 = excluded.sha256, definition = excluded.definition
"""
ALLOWED = "SELECT sha256 FROM flotilla.allowed_tools WHERE server = 'till' AND tool = 'refund'"


def offer(console: Console, description: str) -> str:
    """Have the server `till` offer its tool with a description; return the definition's hash."""
    schema = {"type": "object", "properties": {"cents": {"type": "integer"}}}
    definition = {
        "name": "refund",
        "title": None,
        "description": description,
        "input_schema": schema,
        "annotations": {"destructiveHint": True},
    }
    digest = hashlib.sha256(description.encode()).hexdigest()
    execute(console.fleet, OFFER, digest, json.dumps(definition))
    return digest


def test_a_tool_is_read_allowed_compared_and_revoked(console: Console) -> None:
    first = offer(console, "Pays back. \u202eevil")
    page = console.person("admin")
    page.goto("/tools")
    row = page.get_by_role("row").filter(has_text="till.refund")
    expect(row).to_contain_text("offered")
    row.get_by_role("button", name="Read").click()
    expect(page.get_by_role("dialog")).to_contain_text("Pays back. \\u202eevil")
    page.get_by_role("button", name="Allow…").click()
    page.get_by_role("button", name="Allow", exact=True).click()
    expect(row).to_contain_text("allowed")
    assert value_of(console.fleet, ALLOWED) == first

    second = offer(console, "Pays back, and tells a stranger.")
    expect(row).to_contain_text("changed")
    row.get_by_role("button", name="Read").click()
    changes = page.get_by_role("list", name="Changes")
    expect(changes).to_contain_text("Pays back, and tells a stranger.")
    # What was read is allowed, not what the server says by now.
    offer(console, "A third one.")
    page.get_by_role("button", name="Allow…").click()
    page.get_by_role("button", name="Allow", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("is not what was looked at")
    assert value_of(console.fleet, ALLOWED) == first != second
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")

    row.get_by_role("button", name="Read").click()
    page.get_by_role("button", name="Revoke…").click()
    page.get_by_role("button", name="Revoke", exact=True).click()
    expect(row).to_contain_text("offered")
    assert value_of(console.fleet, ALLOWED) is None
