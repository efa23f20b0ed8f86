"""Deletion of a tenant: who may ask and confirm, what is destroyed at once, what is removed, and what stays."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from temporalio.client import Client

from flotilla.postgres import open_pool, tenant_transaction
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_privacy import waiting_for_a_lock
from tests.support.encryption import key_file
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually
from workflow_worker import tenant_deletions
from workflow_worker.tenant_deletions import TenantDeletionDuty

__all__ = ["key_file"]
TABLES = """
SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
WHERE c.relnamespace = 'flotilla'::regnamespace AND c.relkind IN ('r', 'p') AND NOT a.attisdropped
"""
DELETION = "/v1/tenants/globex/deletion"


@pytest.fixture
async def encrypting(replica: Replica, key_file: Path) -> AsyncIterator[RunningGateway]:
    """A replica that encrypts."""
    async with replica(encryption="on", encryption_key_file=key_file) as running:
        yield running


async def rows_by_table(gateway: RunningGateway, tenant: str) -> dict[str, int]:
    """How many rows of the tenant each table of the schema has, but those that have none."""
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        counted = {
            table: await connection.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", tenant)
            for (table,) in await connection.fetch(TABLES)
        }
    finally:
        await connection.close()
    return {table: count for table, count in counted.items() if count}


async def with_history(gateway: RunningGateway, session: str, text: str = "Why?") -> Any:
    """A person of tenant globex with a run; and somebody of another tenant with one."""
    ada = await gateway.client_of("ada", "operator", "admin", tenant="globex", person=True)
    bob = await gateway.client_of("bob", "operator", person=True)
    for client in (ada, bob):
        answer = await client.post(f"/v1/sessions/{session}/runs", json={"query": text})
        assert answer.status_code == 202, answer.text
        await client.post("/v1/actions", json={"action": "echo", "description": "d", "risk_level": "low"})
    return ada


async def confirmed(gateway: RunningGateway) -> None:
    """Two people have deleted tenant globex."""
    otto, petra = [await gateway.client_of(who, "admin", person=True) for who in ("otto", "petra")]
    assert (await otto.post("/v1/tenants/globex/suspend", json={"reason": "it ends"})).status_code == 200
    assert (await otto.post(DELETION, json={"reason": "it ends"})).status_code == 202
    answer = await petra.post(f"{DELETION}/confirm")
    assert (answer.status_code, answer.json()["state"]) == (202, "deleting"), answer.text


async def published(gateway: RunningGateway) -> None:
    """As if the relay had published all events."""
    await gateway.as_superuser("DELETE FROM flotilla.event_outbox")


async def test_it_destroys_the_keys_at_once_and_then_every_row_of_that_tenant_alone(
    encrypting: RunningGateway, temporal_client: Client, unique: Callable[[str], str]
) -> None:
    session, canary = unique("s"), secrets.token_hex(16)
    ada = await with_history(encrypting, session, canary)
    assert canary in (await ada.get(f"/v1/sessions/{session}/events")).text
    others = await rows_by_table(encrypting, "acme")
    assert len(await rows_by_table(encrypting, "globex")) >= 8
    await confirmed(encrypting)
    otto = await encrypting.client_of("otto", "admin", person=True)
    events = (await otto.get("/v1/sessions/flotilla:audit/events")).json()["events"]
    changes = [one["data"]["change"] for one in events if one["data"]["change"].startswith("tenant_")]
    assert changes == ["tenant_suspended", "tenant_deletion_requested", "tenant_deletion_confirmed"]
    keys = "SELECT count(*) FILTER (WHERE wrapped_key IS NOT NULL) FROM flotilla.person_keys WHERE tenant_id = 'globex'"
    connection = await asyncpg.connect(encrypting.database.superuser_dsn)
    assert await connection.fetchval(keys) == 0
    assert await connection.fetchval("SELECT count(*) FROM flotilla.tenant_keys WHERE tenant_id = 'globex'") == 0
    await connection.close()
    async with open_pool(encrypting.database.dsn("flotilla_worker"), application="test") as pool:
        duty = TenantDeletionDuty(pool, temporal_client, "acme", settled_after=timedelta(0))
        await duty.run_once()
        assert "flotilla.sessions" in await rows_by_table(encrypting, "globex"), "events are not in Kafka yet"
        await published(encrypting)
        for _ in range(4):
            await duty.run_once()
        assert await rows_by_table(encrypting, "globex") == {}
        left = await rows_by_table(encrypting, "acme")
        assert {table: left.get(table, 0) >= count for table, count in others.items()} == dict.fromkeys(
            others, True
        ) | {"flotilla.event_outbox": False}
        tenant = (await otto.get("/v1/tenants/globex")).json()
        assert (tenant["state"], tenant["deletion_confirmed_by"]) == ("deleted", "petra")
    last = "SELECT convert_from(body, 'UTF8') AS body FROM flotilla.event_outbox ORDER BY id DESC LIMIT 1"
    [event] = await encrypting.rows(last)
    data = json.loads(event["body"])["data"]
    assert (data["change"], data["details"]["deletion_confirmed_by"]) == ("tenant_deleted", "petra")
    again = await otto.post("/v1/tenants", json={"tenant_id": "globex", "admin": "eve"})
    assert again.status_code == 409, "a deleted tenant's name is not given again: its log is still there"


async def test_its_workflows_are_terminated(
    gateway: RunningGateway, temporal_client: Client, unique: Callable[[str], str]
) -> None:
    ada = await with_history(gateway, unique("s"))
    run = (await ada.get("/v1/runs")).json()["runs"][0]["run_id"]
    await confirmed(gateway)
    async with open_pool(gateway.database.dsn("flotilla_worker"), application="test") as pool:
        await TenantDeletionDuty(pool, temporal_client, "acme").run_once()
    description = await temporal_client.get_workflow_handle(f"run-{run}").describe()
    assert description.status is not None
    assert description.status.name == "TERMINATED"


async def test_it_takes_two_people_of_the_operators_a_suspension_and_no_legal_hold(gateway: RunningGateway) -> None:
    ada = await with_history(gateway, "s")
    otto, petra = [await gateway.client_of(who, "admin", person=True) for who in ("otto", "petra")]
    robot = await gateway.client_of("robot", "admin")
    body = {"reason": "it ends"}
    assert (await otto.post(DELETION, json=body)).status_code == 409, "it is active"
    await otto.post("/v1/tenants/globex/suspend", json=body)
    await gateway.as_superuser(
        "INSERT INTO flotilla.legal_holds (tenant_id, person, reason, added_by) VALUES ('globex', 'ada', 'r', 'x')"
    )
    held = await otto.post(DELETION, json=body)
    assert (held.status_code, "legal hold" in held.text) == (409, True)
    await gateway.as_superuser("DELETE FROM flotilla.legal_holds")
    assert (await petra.post(f"{DELETION}/confirm")).status_code == 409, "nobody asked for it"
    assert [(await otto.post(DELETION, json=body)).status_code for _ in range(2)] == [202, 409]
    made = await otto.post("/v1/keys", json={"name": "puppet", "roles": ["admin"], "person": True})
    puppet = gateway.client(made.json()["key"])
    assert [(await who.post(f"{DELETION}/confirm")).status_code for who in (otto, robot, puppet, ada)] == [403] * 4
    assert (await otto.post("/v1/tenants/globex/resume")).json()["deletion_asked_by"] is None
    await otto.post("/v1/tenants/globex/suspend", json=body)
    await otto.post(DELETION, json=body)
    assert [(await petra.post(f"{DELETION}/confirm")).status_code for _ in range(2)] == [202, 409]
    resumed = await otto.post("/v1/tenants/globex/resume")
    assert (resumed.status_code, "is deleting" in resumed.text) == (409, True)


async def test_a_hold_that_comes_while_a_confirmation_waits_wins(gateway: RunningGateway) -> None:
    await with_history(gateway, "s")
    otto, petra = [await gateway.client_of(who, "admin", person=True) for who in ("otto", "petra")]
    await otto.post("/v1/tenants/globex/suspend", json={"reason": "it ends"})
    await otto.post(DELETION, json={"reason": "it ends"})
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO flotilla.legal_holds VALUES ('globex', 'user/flotilla/ada', 'r', 'x')"
            )
            confirming = asyncio.create_task(petra.post(f"{DELETION}/confirm"))
            await eventually(partial(waiting_for_a_lock, gateway))
        assert (await confirming).status_code == 409
    finally:
        await connection.close()


async def test_rows_wait_for_requests_from_before_and_for_events_that_come_late(
    gateway: RunningGateway, temporal_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_history(gateway, "s")
    await confirmed(gateway)
    otto = await gateway.client_of("otto", "admin", person=True)
    async with open_pool(gateway.database.dsn("flotilla_worker"), application="test") as pool:
        with monkeypatch.context() as patch:
            # As if the events came after the duty has looked for them.
            patch.setattr(tenant_deletions, "_COUNT_OUTBOX_EVENTS", "SELECT 0 WHERE $1 <> ''")
            await TenantDeletionDuty(pool, temporal_client, "acme", settled_after=timedelta(0)).run_once()
        assert (await otto.get("/v1/tenants/globex")).json()["state"] == "deleting"
        await published(gateway)
        await TenantDeletionDuty(pool, temporal_client, "acme").run_once()
        assert "flotilla.sessions" in await rows_by_table(gateway, "globex"), "requests may still be under way"


async def test_the_database_lets_no_service_delete_a_tenant_by_itself(gateway: RunningGateway) -> None:
    await with_history(gateway, "s")
    before = await rows_by_table(gateway, "globex")
    for role, statement in (
        ("flotilla_worker", "SELECT flotilla.purge_tenant('globex', 1000)"),
        ("flotilla_gateway", "SELECT flotilla.purge_tenant('globex', 1000)"),
        (
            "flotilla_gateway",
            "UPDATE flotilla_ops.tenants SET deletion_confirmed_at = now(), deletion_confirmed_by = 'x'",
        ),
        ("flotilla_worker", "SELECT flotilla.confirm_tenant_deletion('globex', 'x')"),
        ("flotilla_worker", "SET ROLE flotilla_mover"),
        ("flotilla_gateway", "SET ROLE flotilla_mover"),
        ("flotilla_worker", "UPDATE flotilla_ops.tenants SET deleted_at = now()"),
    ):
        async with open_pool(gateway.database.dsn(role), application="test") as pool:
            try:
                async with tenant_transaction(pool, "globex") as connection:
                    await connection.execute(statement)
            except asyncpg.InsufficientPrivilegeError:
                continue
    assert await rows_by_table(gateway, "globex") == before


async def test_a_deletion_that_is_interrupted_goes_on(
    gateway: RunningGateway, temporal_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_history(gateway, "s")
    await confirmed(gateway)
    await published(gateway)
    monkeypatch.setattr(tenant_deletions, "PURGE_BATCHES_PER_ROUND", 1)
    monkeypatch.setattr(tenant_deletions, "PURGE_BATCH_ROWS", 1)
    async with open_pool(gateway.database.dsn("flotilla_worker"), application="test") as pool:
        rounds = 0
        while await rows_by_table(gateway, "globex"):
            await TenantDeletionDuty(pool, temporal_client, "acme", settled_after=timedelta(0)).run_once()
            await published(gateway)
            rounds += 1
            assert rounds < 60
    assert rounds >= 2
