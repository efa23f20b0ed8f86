"""Retention: what is deleted by age, what is not, and who decides."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from flotilla.knowledge import KnowledgeBase
from flotilla.postgres import ITSELF, Pool, acting_as, open_pool
from gateway.privacy.expired_documents import ExpiredDocumentsJob
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_privacy import waiting_for_a_lock
from tests.support.encryption import key_file
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually
from workflow_worker.retention import RetentionDuty

__all__ = ["key_file"]
RETENTION = "/v1/privacy/retention"
PROJECT = """
INSERT INTO audit.session_events (tenant_id, session_id, seq, event_id, type, occurred_at, kafka_partition,
    kafka_offset, hash, body)
SELECT tenant_id, session_id, seq, event_id, 't', now() - interval '40 days', 0, id, 'x', body
FROM flotilla.event_outbox
"""
ROWS = """
INSERT INTO flotilla.llm_calls (tenant_id, task_id, call_index, request_hash, run_id, session_id, agent, model, answer,
    input_tokens, output_tokens, duration_ms)
VALUES ('acme', 't-{run}', 0, 'x', '{run}', '{session}', 'a', 'm', '{{}}', 1, 1, 1);
INSERT INTO flotilla.dead_letters (tenant_id, dead_letter_id, stream, consumer_group, entry_id, reason, error, attempts,
    body, session_id)
VALUES ('acme', 'l-{run}', 's', 'g', '{run}', 'r', 'e', 1, '', '{session}');
INSERT INTO flotilla.mcp_calls (tenant_id, call_id, is_run, session_id, principal, digest)
VALUES ('acme', '{run}', true, '{session}', '{who}', 'x');
INSERT INTO flotilla.pipelines (tenant_id, task_id, session_id, workflow_id, user_id, steps, request,
    result_task_id, finished_at)
VALUES ('acme', 't-{run}', '{session}', 'w-{run}', '{who}', '{{}}', '{{}}', 't-{run}', now());
"""
AGE = tuple(
    f"UPDATE flotilla.{table} SET {column} = now() - interval '40 days'"
    for table, column in (
        ("sessions", "created_at"),
        ("runs", "finished_at"),
        ("llm_calls", "created_at"),
        ("dead_letters", "created_at"),
        ("mcp_calls", "created_at"),
        ("documents", "updated_at"),
    )
)

SUSPEND = """
INSERT INTO flotilla_ops.tenants (tenant_id, created_by, suspended_by, suspended_at, suspended_for)
VALUES ('acme', '', 'otto', now(), 'it moves')
"""
HELD = "INSERT INTO flotilla.legal_holds VALUES ('acme', 'user/flotilla/ada', 'case 4 O 17', 'otto')"
RENEWED = "UPDATE flotilla.documents SET updated_at = now()"


@pytest.fixture
async def encrypting(replica: Replica, key_file: Path) -> AsyncIterator[RunningGateway]:
    """A replica that encrypts."""
    async with replica(encryption="on", encryption_key_file=key_file) as running:
        yield running


@pytest.fixture
async def worker_pool(encrypting: RunningGateway) -> AsyncIterator[Pool]:
    async with open_pool(encrypting.database.dsn("flotilla_worker"), application="test") as pool:
        yield pool


async def finished_run(gateway: RunningGateway, who: str, session: str, question: str = "Why?") -> str:
    """A run that is over, with a model's answer, a dead letter and a call of an MCP client."""
    client = await gateway.client_of(who, "operator", person=True)
    started = await client.post(f"/v1/sessions/{session}/runs", json={"query": question})
    run_id = str(started.json()["run_id"])
    await gateway.finish(run_id)
    await gateway.as_superuser(ROWS.format(run=run_id, session=session, who=who))
    return run_id


async def set_policy(gateway: RunningGateway, kind: str, days: int | None = 30) -> None:
    otto, petra = [await gateway.client_of(name, "admin", person=True) for name in ("otto", "petra")]
    asked = await otto.post(RETENTION, json={"kind": kind, "days": days, "reason": "policy of 2031"})
    assert asked.status_code == 202, asked.text
    confirmed = await petra.post(f"/v1/privacy/requests/{asked.json()['request_id']}/confirm")
    assert confirmed.status_code == 202, confirmed.text


async def hold(gateway: RunningGateway, subject: str) -> None:
    admin = await gateway.client_of("otto", "admin", person=True)
    added = await admin.post("/v1/privacy/holds", json={"subject": subject, "reason": "case 4 O 17"})
    assert added.status_code == 201, added.text


async def sessions_in(gateway: RunningGateway, table: str) -> set[str]:
    return {row[0] for row in await gateway.rows(f"SELECT session_id FROM flotilla.{table}")}


async def changes_of(gateway: RunningGateway, session: str) -> list[dict[str, Any]]:
    admin = await gateway.client_of("otto", "admin", person=True)
    found = (await admin.get(f"/v1/sessions/{session}/events")).json()["events"]
    return [event["data"] for event in found if "change" in event["data"]]


@pytest.mark.parametrize(
    ("kind", "table"),
    [("runs", "runs"), ("model_calls", "llm_calls"), ("dead_letters", "dead_letters"), ("mcp_calls", "mcp_calls")],
)
async def test_what_is_over_goes_and_what_is_held_or_young_stays(
    encrypting: RunningGateway, worker_pool: Pool, unique: Callable[[str], str], kind: str, table: str
) -> None:
    old, held = unique("old"), unique("held")
    await finished_run(encrypting, "ada", old)
    await finished_run(encrypting, "bob", held)
    await hold(encrypting, "bob")
    await encrypting.as_superuser(*AGE)
    young = unique("young")
    await finished_run(encrypting, "ada", young)
    otto = await encrypting.client_of("otto", "admin", person=True)
    plan = (await otto.get(f"{RETENTION}/plan", params={"kind": kind, "days": 30})).json()
    assert plan == {"kind": kind, "days": 30, "expired": 1, "held": 1}
    duty = RetentionDuty(worker_pool)
    if kind != "mcp_calls":  # which go after a week by themselves
        await duty.run_once()
        assert await sessions_in(encrypting, table) == {old, held, young}
    await set_policy(encrypting, kind)
    await duty.run_once()
    assert await sessions_in(encrypting, table) == {held, young}
    applied = [c for c in await changes_of(encrypting, "flotilla:audit") if c["change"] == "privacy_retention_applied"]
    assert {"kind": kind, "deleted": 1} in [change["details"] for change in applied]


async def test_a_session_that_is_over_loses_its_key_and_records_it(
    encrypting: RunningGateway, worker_pool: Pool, unique: Callable[[str], str]
) -> None:
    old, held, active = unique("old"), unique("held"), unique("active")
    await finished_run(encrypting, "ada", old)
    await finished_run(encrypting, "bob", held)
    await hold(encrypting, "bob")
    carol = await encrypting.client_of("carol", "operator", person=True)
    await carol.post(f"/v1/sessions/{active}/runs", json={"query": "Why?"})
    await encrypting.as_superuser(PROJECT, *AGE)
    await finished_run(encrypting, "ada", young := unique("young"))
    await set_policy(encrypting, "sessions")
    duty = RetentionDuty(worker_pool)
    for _ in range(2):
        await duty.run_once()
    otto = await encrypting.client_of("otto", "admin", person=True)
    shown = {session: (await otto.get(f"/v1/sessions/{session}/events")).text for session in (old, held, active, young)}
    assert [session for session, text in shown.items() if "Why?" in text] == [held, active, young]
    assert [change["change"] for change in await changes_of(encrypting, old)].count("session_expired") == 1
    for table in ("runs", "llm_calls", "pipelines"):
        assert old not in await sessions_in(encrypting, table)
    applied = [c for c in await changes_of(encrypting, "flotilla:audit") if c["change"] == "privacy_retention_applied"]
    assert [c["details"]["deleted"] for c in applied if c["details"]["kind"] == "sessions"] == [1]
    assert (await otto.get(f"/v1/sessions/{old}")).status_code == 200


async def test_a_hold_that_comes_while_retention_waits_wins(
    encrypting: RunningGateway, worker_pool: Pool, unique: Callable[[str], str]
) -> None:
    old = unique("old")
    await finished_run(encrypting, "ada", old)
    await encrypting.as_superuser(*AGE)
    await set_policy(encrypting, "runs")
    connection = await asyncpg.connect(encrypting.database.superuser_dsn)
    try:
        async with connection.transaction():
            await connection.execute(HELD)
            applying = asyncio.create_task(RetentionDuty(worker_pool).run_once())
            await eventually(partial(waiting_for_a_lock, encrypting))
        await applying
    finally:
        await connection.close()
    assert await sessions_in(encrypting, "runs") == {old}


async def test_a_suspended_tenant_loses_nothing(
    encrypting: RunningGateway, worker_pool: Pool, unique: Callable[[str], str]
) -> None:
    old = unique("old")
    await finished_run(encrypting, "ada", old)
    ada = await encrypting.client_of("ada", "operator", person=True)
    for place in ("/v1/documents", f"/v1/sessions/{old}/attachments"):
        await ada.post(place, files={"file": ("a.txt", place.encode(), "text/plain")})
    kinds = {"runs": "runs", "model_calls": "llm_calls", "dead_letters": "dead_letters", "mcp_calls": "mcp_calls"}
    for kind in (*kinds, "documents", "sessions"):
        await set_policy(encrypting, kind)
    await encrypting.as_superuser(PROJECT, *AGE, SUSPEND)

    async def left() -> tuple[set[str], int]:
        await RetentionDuty(worker_pool).run_once()
        async with open_pool(encrypting.database.dsn("flotilla_gateway"), application="test") as pool:
            with acting_as(ITSELF):
                await ExpiredDocumentsJob(pool, KnowledgeBase(pool)).remove_expired()
        tables = [table for table in kinds.values() if await sessions_in(encrypting, table)]
        return set(tables), len(await encrypting.rows("SELECT FROM flotilla.documents"))

    events = "SELECT count(*) FROM flotilla.event_outbox"
    before = await encrypting.rows(events)
    assert await left() == (set(kinds.values()), 2)
    assert await encrypting.rows(events) == before, "nothing is written of a tenant that may be on its way"
    await encrypting.as_superuser("DELETE FROM flotilla_ops.tenants")
    assert await left() == (set(), 0)


@pytest.mark.parametrize("first", [HELD, RENEWED])
async def test_a_document_that_is_held_or_renewed_before_its_turn_stays(
    encrypting: RunningGateway, unique: Callable[[str], str], first: str
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    await finished_run(encrypting, "ada", session := unique("s"))
    await ada.post(f"/v1/sessions/{session}/attachments", files={"file": ("a.txt", b"hers", "text/plain")})
    await set_policy(encrypting, "documents")
    await encrypting.as_superuser(*AGE)

    class Late(KnowledgeBase):
        async def remove(self, *given: Any) -> Any:
            await encrypting.as_superuser(first)
            return await super().remove(*given)

    async with open_pool(encrypting.database.dsn("flotilla_gateway"), application="test") as pool:
        with acting_as(ITSELF):
            await ExpiredDocumentsJob(pool, Late(pool)).remove_expired()
    assert [row[0] for row in await encrypting.rows("SELECT body FROM flotilla.documents")] == ["hers"]


async def test_documents_go_by_age_and_with_their_session(
    encrypting: RunningGateway, worker_pool: Pool, unique: Callable[[str], str]
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    session, held = unique("s"), unique("held")
    bob = await encrypting.client_of("bob", "operator", person=True)
    await finished_run(encrypting, "ada", session)
    await finished_run(encrypting, "bob", held)
    await hold(encrypting, "bob")
    for client, place, text in (
        (ada, "/v1/documents", "old"),
        (ada, f"/v1/sessions/{session}/attachments", "hers"),
        (bob, f"/v1/sessions/{held}/attachments", "his"),
    ):
        added = await client.post(place, files={"file": (f"{text}.txt", text.encode(), "text/plain")})
        assert added.is_success, added.text
    await encrypting.as_superuser(PROJECT, *AGE)
    added = await ada.post("/v1/documents", files={"file": ("young.txt", b"young", "text/plain")})

    async def left() -> list[str]:
        async with open_pool(encrypting.database.dsn("flotilla_gateway"), application="test") as pool:
            with acting_as(ITSELF):
                await ExpiredDocumentsJob(pool, KnowledgeBase(pool)).remove_expired()
        return sorted(row[0] for row in await encrypting.rows("SELECT body FROM flotilla.documents"))

    assert await left() == ["hers", "his", "old", "young"]
    await set_policy(encrypting, "sessions")
    await RetentionDuty(worker_pool).run_once()
    assert await left() == ["his", "old", "young"]
    await set_policy(encrypting, "documents")
    assert await left() == ["his", "young"]
    recorded = await changes_of(encrypting, "flotilla:audit")
    removed = [change["details"]["by"] for change in recorded if change["change"] == "knowledge_document_removed"]
    assert removed == ["retention", "retention"]


async def test_a_policy_counts_once_it_is_confirmed(encrypting: RunningGateway) -> None:
    otto = await encrypting.client_of("otto", "admin", person=True)
    asked = await otto.post(RETENTION, json={"kind": "runs", "days": 30, "reason": "policy of 2031"})

    async def days() -> int | None:
        policies = (await otto.get(RETENTION)).json()["policies"]
        assert len(policies) == 6
        found: int | None = {policy["kind"]: policy["days"] for policy in policies}["runs"]
        return found

    assert await days() is None
    own = await otto.post(f"/v1/privacy/requests/{asked.json()['request_id']}/confirm")
    assert (own.status_code, await days()) == (403, None)
    await set_policy(encrypting, "runs", 60)
    assert await days() == 60
    await set_policy(encrypting, "runs", None)
    assert await days() is None
    stranger = await encrypting.client_of("eve", "admin", tenant="globex", person=True)
    confirmed = await stranger.post(f"/v1/privacy/requests/{asked.json()['request_id']}/confirm")
    assert (confirmed.status_code, await days()) == (404, None)
