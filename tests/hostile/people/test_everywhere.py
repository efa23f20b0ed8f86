"""No operation and no statement shows anything of somebody else's session."""

from typing import Any

import asyncpg

from flotilla.contracts.identity import group_name, user_name
from flotilla.postgres import Pool, Viewer, acting_as, tenant_transaction
from tests.hostile.people.house import ALICE, PRIVATE, SCHEMAS, TABLES
from tests.support.gateway import RunningGateway
from tests.support.operations import operations_of

BY_SESSION = {
    "session_id",
    "run_id",
    "response_id",
    "action_id",
    "approval_id",
    "order_id",
    "task_id",
    "dead_letter_id",
    "request_id",
    "schedule_id",
    "question_id",
}
"""Parts of a path that name something of a session."""
HERS = """
    sessions/acme-session runs/acme-run actions/acme-action orders/acme-order tasks/acme-task approvals/acme-action
    dead-letters/acme-letter audit/requests/acme-request questions/acme-question
"""
NOT_HERS = {"acme-signer", "acme-stream", "acme-model", "acme-document", "acme-uri", "acme-desk"}
"""The tenant's own, or the attacker's."""
_HER_ROWS = "SELECT count(*) FROM {} WHERE session_id = 'acme-session'"
ADDED = """
INSERT INTO flotilla.interactions (tenant_id, interaction_id, user_id, session_id, run_id, query, answer, sources)
VALUES ('acme', 'i', 'u', 'acme-session', 'r', 'q', 'a', '[]')
"""


async def test_every_operation_of_the_document_hides_what_is_not_shared(gateway: RunningGateway) -> None:
    await gateway.as_superuser(PRIVATE)
    alice = await gateway.client_of("alice", "viewer", "operator", person=True)
    bob = await gateway.client_of("bob", "viewer", "operator", person=True)
    document = (await gateway.client().get("/openapi.json")).json()
    operations = [
        one for one in operations_of(document) if "security" in document["paths"][one.path][one.method.lower()]
    ]
    hidden = 0
    before = await her_things(gateway)
    for operation in sorted(operations, key=lambda one: one.method):
        answer = await operation.call(bob)
        where = (operation.name, answer.status_code)
        names = {part.strip("{}") for part in operation.path.split("/") if part.startswith("{")} | operation.query
        if operation.name == "POST /v1/sessions/{session_id}/events":
            assert (answer.status_code, "may not append" in answer.text) == (403, True)
        elif answer.status_code == 403:
            assert {"operator", "viewer"}.isdisjoint(
                document["paths"][operation.path][operation.method.lower()]["x-roles"]
            ), where
        elif (BY_SESSION & names and "{" in operation.path) or operation.path in (
            "/v1/audit/verify",
            "/v1/audit/export",
        ):
            assert answer.status_code == 404, (where, answer.text)
            hidden += 1
        else:
            assert answer.status_code < 500, where
            text = answer.text
            for own in NOT_HERS:
                text = text.replace(own, "")
            assert "acme-" not in text, (where, text)
    assert hidden > 25
    assert await her_things(gateway) == before
    for thing in HERS.split():
        assert (await alice.get(f"/v1/{thing}")).status_code == 200, thing


async def her_things(gateway: RunningGateway) -> dict[str, Any]:
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        tables = [row[0] for row in await connection.fetch(TABLES, SCHEMAS)]
        return {
            table: await connection.fetch(f"SELECT t::text FROM {table} AS t WHERE session_id = 'acme-session'")
            for table in tables
        }
    finally:
        await connection.close()


async def seen_by(pool: Pool, viewer: Viewer) -> tuple[int, bool]:
    """How many of her rows the viewer sees, and whether one can be added."""
    tables = [row[0] for row in await pool.fetch(TABLES, SCHEMAS)]
    assert len(tables) > 20
    with acting_as(viewer):
        async with tenant_transaction(pool, "acme") as connection:
            rows = sum([await connection.fetchval(_HER_ROWS.format(table)) for table in tables])
        try:
            async with tenant_transaction(pool, "acme") as connection:
                await connection.execute(ADDED)
        except asyncpg.InsufficientPrivilegeError:
            return rows, False
    return rows, True


async def test_the_database_hides_it_from_every_statement(gateway: RunningGateway, pool: Pool) -> None:
    await gateway.as_superuser(PRIVATE)
    bob = Viewer(names=[user_name("flotilla", "bob"), group_name("flotilla", "alice")], roles=["operator", "viewer"])
    impostor = Viewer(names=[user_name("https://login.example.com", "alice")])
    for viewer in (bob, impostor, Viewer()):
        assert await seen_by(pool, viewer) == (0, False)
    rows, added = await seen_by(pool, Viewer(names=[ALICE]))
    assert (rows > 8, added) == (True, True)


async def test_every_table_that_names_a_session_is_limited_to_people(pool: Pool) -> None:
    limited = {
        row[0]
        for row in await pool.fetch(
            "SELECT polrelid::regclass::text FROM pg_policy WHERE polname LIKE 'people%' AND NOT polpermissive"
        )
    }
    assert {row[0] for row in await pool.fetch(TABLES, [*SCHEMAS, "audit_next"])} <= limited
