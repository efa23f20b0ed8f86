"""Tools of MCP servers at the API: looked at, allowed by their hash, shown as changed, revoked."""

import json
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from flotilla.encryption.tables import TOOL_CALLS
from flotilla.postgres import Pool, open_rows, tenant_transaction
from tests.integration.gateway.test_privacy import encrypting
from tests.support.encryption import encrypting_pool, key_file, rows_with
from tests.support.gateway import RunningGateway
from tests.support.postgres import Database, agent_dsn

__all__ = ["encrypting", "key_file"]


@pytest.fixture
async def admin(gateway: RunningGateway) -> httpx.AsyncClient:
    """An administrator of tenant acme."""
    return await gateway.client_of("ada", "admin", person=True)


HASHES = {"add": "a" * 64, "wipe": "b" * 64, "new": "c" * 64}


def offered(tool: str, sha256: str | None = None) -> dict[str, Any]:
    """A tool as the tool gateway notes it."""
    definition: dict[str, Any] = {
        "name": tool,
        "title": None,
        "description": tool,
        "input_schema": {},
        "annotations": {},
    }
    return {"tool": tool, "sha256": sha256 or HASHES[tool], "definition": definition, "risk": "low"}


async def note(pool: Pool, *tools: dict[str, Any], tenants: tuple[str, ...] = ("acme",), agent: str = "mcp") -> int:
    """Note what server `desk` offers, as the role of `agent`; return how many allowed tools differ."""
    connection = await asyncpg.connect(await agent_dsn(pool, agent))
    try:
        changed: int = await connection.fetchval(
            "SELECT flotilla.note_offered_tools('desk', $1, $2)", list(tenants), json.dumps(tools)
        )
    finally:
        await connection.close()
    return changed


async def audit_changes(pool: Pool) -> list[dict[str, Any]]:
    """What the tenant's audit session records of tools."""
    async with tenant_transaction(pool, "acme") as connection:
        rows = await connection.fetch(
            "SELECT body FROM flotilla.event_outbox WHERE session_id = 'flotilla:audit' ORDER BY seq"
        )
    found = [json.loads(row["body"])["data"] for row in rows]
    return [each for each in found if each["change"].startswith("mcp_")]


async def test_a_tool_is_allowed_by_the_hash_of_what_was_read(admin: httpx.AsyncClient, pool: Pool) -> None:
    await note(pool, offered("add"), offered("wipe"))
    listed = (await admin.get("/v1/tools")).json()["tools"]
    assert [(tool["name"], tool["status"], tool["action"]) for tool in listed] == [
        ("desk.add", "offered", "mcp.desk.add"),
        ("desk.wipe", "offered", "mcp.desk.wipe"),
    ]
    stale = await admin.put("/v1/tools/desk.add/allowance", json={"sha256": HASHES["new"]})
    assert (stale.status_code, stale.json()["code"]) == (409, "tool_changed")
    allowed = await admin.put("/v1/tools/desk.add/allowance", json={"sha256": HASHES["add"]})
    assert (allowed.status_code, allowed.json()["status"]) == (200, "allowed")
    [change] = await audit_changes(pool)
    assert change["change"] == "mcp_tool_allowed"
    assert change["details"]["sha256"] == HASHES["add"]


async def test_a_changed_tool_shows_both_descriptions_until_it_is_allowed_again(
    admin: httpx.AsyncClient, pool: Pool
) -> None:
    await note(pool, offered("add"))
    await admin.put("/v1/tools/desk.add/allowance", json={"sha256": HASHES["add"]})
    assert await note(pool, offered("add", HASHES["new"])) == 1
    tool = (await admin.get("/v1/tools/desk.add")).json()
    assert tool["status"] == "changed"
    assert (tool["allowed"]["sha256"], tool["offered"]["sha256"]) == (HASHES["add"], HASHES["new"])
    await admin.put("/v1/tools/desk.add/allowance", json={"sha256": HASHES["new"]})
    assert (await admin.get("/v1/tools/desk.add")).json()["status"] == "allowed"
    assert (await audit_changes(pool))[-1]["details"]["former_sha256"] == HASHES["add"]
    await note(pool)
    assert (await admin.get("/v1/tools/desk.add")).json()["status"] == "gone"


async def test_a_revoked_tool_is_not_allowed_any_more(admin: httpx.AsyncClient, pool: Pool) -> None:
    await note(pool, offered("add"))
    await admin.put("/v1/tools/desk.add/allowance", json={"sha256": HASHES["add"]})
    assert (await admin.delete("/v1/tools/desk.add/allowance")).status_code == 204
    assert (await admin.delete("/v1/tools/desk.add/allowance")).status_code == 404
    assert (await admin.get("/v1/tools/desk.add")).json()["status"] == "offered"
    assert [change["change"] for change in await audit_changes(pool)] == ["mcp_tool_allowed", "mcp_tool_revoked"]


async def test_tools_of_a_server_of_another_tenant_are_not_there(admin: httpx.AsyncClient, pool: Pool) -> None:
    await note(pool, offered("add"), tenants=("globex",))
    assert (await admin.get("/v1/tools")).json()["tools"] == []
    refused = await admin.put("/v1/tools/desk.add/allowance", json={"sha256": HASHES["add"]})
    assert refused.status_code == 404


async def test_only_the_tool_gateway_says_what_is_offered(pool: Pool) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only the tool gateway"):
        await note(pool, offered("add"), agent="research")


UNKNOWN = """
WITH opened AS (
    INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', 's', 'alice')
), asked AS (
    INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level,
        requested_by, request)
    VALUES ('acme', $1, 's', 'w', 'mcp.desk.add', 'd', '{}', 'low', '/agents/mcp', '{"task_id": "t"}')
), shown AS (
    INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, action, description, args,
        content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, deadline_at)
    VALUES ('acme', $1, 's', 'w', 'mcp.desk.add', 'd', '{}', 'h', 'low', '{}', '/agents/mcp',
        '{"required": true, "risk_level": "low", "reasons": [], "policy_version": "1"}', '1', 1, now())
)
INSERT INTO flotilla.tool_calls (tenant_id, task_id, tool, args_hash, occurrence, start_no, call_id, session_id, agent,
    called, expires_at)
VALUES ('acme', 't', 'desk.add', '', 0, 1, 'c', 's', 'mcp', '{}', clock_timestamp() + $2::interval)
"""


async def test_an_administrator_states_what_came_of_a_call_without_an_answer(
    gateway: RunningGateway, admin: httpx.AsyncClient, pool: Pool
) -> None:
    other = await gateway.client_of("otto", "admin", person=True, tenant="globex")
    path, body = "/v1/approvals/t.desk.add.x.1.again.1/outcome", {"result": {"sum": 3}, "reason": "seen"}
    async with tenant_transaction(pool, "acme") as connection:
        await connection.execute(UNKNOWN, "t.desk.add.x.1.again.1", timedelta(hours=1))
    running = await admin.put(path, json=body)
    assert (running.status_code, running.json()["code"]) == (409, "no_unknown_call")
    async with tenant_transaction(pool, "acme") as connection:
        await connection.execute("UPDATE flotilla.tool_calls SET expires_at = '2020-01-01'")
    assert (await other.put(path, json=body)).status_code == 404
    stated = await admin.put(path, json=body)
    assert stated.status_code == 200, stated.text
    assert stated.json()["tool"] == "desk.add"
    assert (await admin.put(path, json=body)).status_code == 409
    async with tenant_transaction(pool, "acme") as connection:
        stored = await connection.fetchval("SELECT result FROM flotilla.tool_calls WHERE outcome = 'returned'")
    assert json.loads(stored)["structured"] == {"sum": 3}
    [change] = [each for each in await audit_changes(pool) if each["change"] == "mcp_tool_result_accepted"]
    assert (change["details"]["tool"], change["details"]["reason"]) == ("desk.add", "seen")


async def test_a_stated_outcome_is_encrypted_as_what_the_tool_returns_is(
    encrypting: RunningGateway, database: Database, pool: Pool, key_file: Path
) -> None:
    admin, word = await encrypting.client_of("ada", "admin", person=True), secrets.token_hex(16)
    async with tenant_transaction(pool, "acme") as connection:
        await connection.execute(UNKNOWN, "t.desk.add.x.1.again.1", timedelta(0))
    body = {"result": {"sum": word}, "reason": "seen"}
    stated = await admin.put("/v1/approvals/t.desk.add.x.1.again.1/outcome", json=body)
    assert stated.status_code == 200, stated.text
    assert await rows_with(database, word) == []
    async with encrypting_pool(database, key_file) as readable, tenant_transaction(readable, "acme") as connection:
        found = await connection.fetch("SELECT session_id, call_id, result FROM flotilla.tool_calls")
        [row] = await open_rows(connection, "acme", TOOL_CALLS, found)
    assert json.loads(row["result"])["structured"] == {"sum": word}
