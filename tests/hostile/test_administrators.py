"""What administrators do is recorded where they can't leave it out, and read by operators and administrators only."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.audit.admin_log import record_policies_until, record_policy_if_changed
from flotilla.audit.verify_export import verify_export
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.errors import Forbidden, NotFound
from flotilla.contracts.ids import new_id
from flotilla.contracts.names import AUDIT_SESSION
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.eventstore import AgentEventStore
from flotilla.outbox import append
from flotilla.postgres import Pool, tenant_transaction
from tests.support.exports import Recorder
from tests.support.gateway import RunningGateway
from tests.support.postgres import Database
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

EVENTS = f"/v1/sessions/{AUDIT_SESSION}/events"


async def changes(gateway: RunningGateway, tenant: str = "acme") -> list[tuple[str, Any]]:
    store = AgentEventStore(gateway.pool, tenant)
    events = await store.replay(AUDIT_SESSION)
    return [(str(event.data["change"]), to_builtins(event.data["details"])) for event in events]


async def test_keys_and_roles_are_recorded_with_who_gave_them(gateway: RunningGateway) -> None:
    admin = await gateway.client_of("root", "admin")
    body = {"name": "bob", "roles": ["approver", "viewer"], "person": True}
    key = (await admin.post("/v1/keys", json=body)).json()
    again = (await admin.post("/v1/keys", json={"name": "deploy", "roles": ["viewer"]})).json()
    for _ in range(2):
        assert (await admin.delete(f"/v1/keys/{key['key_id']}")).status_code == 200
    recorded = await changes(gateway)
    assert [change for change, _ in recorded] == [
        "api_key_created",
        "roles_changed",
        "api_key_created",
        "api_key_revoked",
    ]
    created, given, second, revoked = (details for _, details in recorded)
    assert (created["key_id"], created["by"], created["person"]) == (key["key_id"], "root", True)
    assert given == {"subject": "bob", "before": [], "after": ["approver", "viewer"], "by": "root"}
    assert (second["key_id"], revoked["key_id"], revoked["by"]) == (again["key_id"], key["key_id"], "root")
    assert key["key"] not in json.dumps(recorded)


async def test_a_key_that_could_not_be_recorded_is_not_made(gateway: RunningGateway) -> None:
    admin, count = await gateway.client_of("root", "admin"), "SELECT count(*) AS n FROM flotilla.api_keys"
    [before] = await gateway.rows(count)
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        await connection.execute("ALTER TABLE flotilla.event_outbox RENAME TO away")
        assert (await admin.post("/v1/keys", json={"name": "x", "roles": ["admin"]})).status_code >= 500
        await connection.execute("ALTER TABLE flotilla.away RENAME TO event_outbox")
    finally:
        await connection.close()
    assert await gateway.rows(count) == [before]


async def test_the_policy_in_force_is_recorded_at_the_workers_start(worker: RunningWorker) -> None:
    async def recorded() -> object:
        try:
            events = await worker.events("default", AUDIT_SESSION)
        except NotFound:
            return False
        return [(event.source, event.data["change"]) for event in events] == [("/workflow-worker", "policy_changed")]

    await eventually(recorded)


async def test_only_operators_and_administrators_read_it(gateway: RunningGateway) -> None:
    admin = await gateway.client_of("root", "admin")
    await admin.post("/v1/keys", json={"name": "carol", "roles": ["viewer"]})
    operator = await gateway.client_of("olga", "operator")
    session = f"/v1/sessions/{AUDIT_SESSION}"
    reads = [session, *(f"{session}/{what}" for what in ("events", "state", "lineage", "diff?from_seq=0&to_seq=1"))]
    reads += [f"/v1/audit/{what}?session_id={AUDIT_SESSION}" for what in ("export", "verify")]
    for role in ("viewer", "approver"):
        caller = await gateway.client_of(role, role)
        for read in reads:
            assert (await caller.get(read)).status_code == 403, (role, read)
        encoded = EVENTS.replace(":", "%3A")
        assert (await caller.get(encoded)).status_code == 403
    for reader in (admin, operator):
        assert (await reader.get(EVENTS)).json()["events"][-1]["data"]["change"] == "api_key_created"
    assert (await (await gateway.client_of("eve", "admin", tenant="globex")).get(EVENTS)).status_code == 404


async def test_nobody_writes_forks_or_rolls_it_back(gateway: RunningGateway) -> None:
    admin = await gateway.client_of("root", "admin")
    await admin.post("/v1/keys", json={"name": "carol", "roles": ["viewer"]})
    recorded = await changes(gateway)
    answers = [
        await admin.post("/v1/sessions", json={"session_id": AUDIT_SESSION}),
        await admin.post(f"/v1/sessions/{AUDIT_SESSION}/rollback", json={"to_seq": 0}),
        await admin.post(f"/v1/sessions/{AUDIT_SESSION}/fork", json={"at_seq": 1}),
        await admin.post(f"/v1/sessions/{AUDIT_SESSION}/runs", json={"query": "Who?"}),
        await admin.post("/v1/actions", json={"action": "echo", "session_id": AUDIT_SESSION, "args": {"text": "x"}}),
    ]
    assert all(400 <= answer.status_code < 500 for answer in answers), [answer.text for answer in answers]
    assert await changes(gateway) == recorded
    assert AUDIT_SESSION not in (await admin.get("/v1/sessions")).text


@pytest.mark.parametrize("source", ["/agents/research", "/gateway", "/notes"])
async def test_it_holds_nothing_else_and_nothing_of_it_is_elsewhere(pool: Pool, source: str) -> None:
    store = AgentEventStore(pool)
    await record_policy_if_changed(pool, "default", "/gateway", "v1")
    await store.ensure_session("s1", "ada")
    message = AgentStateEvent(kind="message", data={"role": "assistant", "content": "x"}, source=source)
    key = AgentStateEvent(kind="state_change", data={"change": "api_key_created"}, source=source)
    for session, event in ((AUDIT_SESSION, message), ("s1", key)):
        with pytest.raises(Forbidden):
            async with tenant_transaction(pool, "default") as connection:
                await append(connection, "default", session, [event])


async def test_a_policy_is_recorded_once_until_it_is_another_one(pool: Pool) -> None:
    starts = [record_policy_if_changed(pool, "default", "/gateway", "v1+aa") for _ in range(5)]
    assert sorted(await asyncio.gather(*starts)) == [False] * 4 + [True]
    assert await record_policy_if_changed(pool, "default", "/workflow-worker", "v2+bb")
    assert not await record_policy_if_changed(pool, "default", "/gateway", "v2+bb")
    events = await AgentEventStore(pool).replay(AUDIT_SESSION)
    versions = [(event.source, to_builtins(event.data["details"])) for event in events]
    assert versions == [("/gateway", {"policy_version": "v1+aa"}), ("/workflow-worker", {"policy_version": "v2+bb"})]


POLICY = 'version = "%d"\ndefaults.roles = ["approver"]\n# end\n'


async def test_a_policy_that_replaces_another_while_a_service_runs_is_recorded(pool: Pool, tmp_path: Path) -> None:
    file, stop = tmp_path / "policy.toml", asyncio.Event()
    file.write_text(POLICY % 1)
    policies = ReloadingPolicyFile(str(file))
    job = asyncio.create_task(record_policies_until(pool, "default", "/workflow-worker", policies, stop))

    async def recorded() -> list[str]:
        events = await AgentEventStore(pool).replay(AUDIT_SESSION)
        return [str(to_builtins(event.data["details"])["policy_version"]).partition("+")[0] for event in events]

    for text in (POLICY % 1, POLICY % 2, "version = ", POLICY % 1):
        file.write_text(text)
        policies.reload_if_changed()
        policies.reload_if_changed()
        await eventually(partial(_is_last, pool, policies.current_policy.version), timeout_s=20)
    stop.set()
    await job
    assert await recorded() == ["1", "2", "1"]


async def _is_last(pool: Pool, version: str) -> bool:
    try:
        events = await AgentEventStore(pool).replay(AUDIT_SESSION)
    except NotFound:  # nothing is recorded yet
        return False
    return bool(to_builtins(events[-1].data["details"])["policy_version"] == version)


async def test_it_is_exported_and_verified_as_any_session(
    pool: Pool, audit_pool: Pool, database: Database, tmp_path: Path
) -> None:
    recorder = Recorder(pool, audit_pool, database, tmp_path)
    await record_policy_if_changed(pool, "default", "/gateway", "v1+aa")
    await recorder.project()
    export = await recorder.export(AUDIT_SESSION)
    lines = export.splitlines(keepends=True)
    assert verify_export(lines, recorder.keys()).word == "GOOD"
    assert verify_export([line.replace(b"v1+aa", b"v1+ab") for line in lines], recorder.keys()).word == "BAD"


_LOSS = """
INSERT INTO audit.requests (tenant_id, request_id, kind, requested_by, reason, needs_confirmation, accept_loss)
VALUES ('acme', $1, 'rebuild', $2, 'disk lost', true, '[]')
"""


@pytest.mark.parametrize("asks_first", ["maker", "made"])
async def test_a_loss_is_not_confirmed_by_a_key_that_one_of_the_two_issued(
    gateway: RunningGateway, asks_first: str
) -> None:
    maker = await gateway.client_of("otto", "admin", person=True)
    key = await maker.post("/v1/keys", json={"name": "puppet", "roles": ["admin"], "person": True})
    made = gateway.client(key.json()["key"])
    asking, confirming = ("otto", made) if asks_first == "maker" else ("puppet", maker)
    request_id = new_id()
    async with tenant_transaction(gateway.pool, "acme") as connection:
        await connection.execute(_LOSS, request_id, asking)
    path = f"/v1/audit/requests/{request_id}"
    refused = await confirming.post(f"{path}/confirm")
    assert (refused.status_code, "otto issued a key of puppet" in refused.text) == (403, True), refused.text
    assert (await maker.get(path)).json()["confirmed_by"] is None
    other = await gateway.client_of("petra", "admin", person=True)
    assert (await other.post(f"{path}/confirm")).json()["confirmed_by"] == "petra"
