"""The state at a time, where encrypted events, which get no snapshot, are before others that do."""

from datetime import UTC, datetime

from flotilla.contracts.session_events import AgentStateEvent
from flotilla.eventstore import AgentEventStore
from flotilla.outbox import append
from flotilla.postgres import Pool, tenant_transaction
from tests.support.audit import Projected, outbox_bodies, project_directly, records_of
from tests.support.postgres import Database

SAID = AgentStateEvent(kind="message", data={"role": "user", "content": "m"}, source="/t")


def minute(number: int) -> datetime:
    return datetime(2026, 1, 1, 0, number, tzinfo=UTC)


async def append_at(pool: Pool, events: int, number: int) -> None:
    async with tenant_transaction(pool, "default") as connection:
        await append(connection, "default", "s1", [SAID] * events, clock=lambda: minute(number))


async def test_time_travel_finds_encrypted_events_before_a_snapshot(
    sealing: Pool, pool: Pool, database: Database, audit_pool: Pool, projected: Projected
) -> None:
    store = AgentEventStore(sealing)
    await store.ensure_session("s1", "ada")
    await append_at(sealing, 500, 1)
    await append_at(sealing, 500, 3)
    await append_at(pool, 500, 5)  # encryption is off again
    await append_at(pool, 500, 7)
    await project_directly(audit_pool, records_of(await outbox_bodies(database)))
    (row,) = await projected.fetch("SELECT array_agg(seq) AS ends FROM audit.snapshots")
    assert row["ends"] == [2000]
    found = {at: (await store.state_at("s1", time=minute(at))).at_seq for at in (0, 2, 4, 6, 8)}
    assert found == {0: 0, 2: 500, 4: 1000, 6: 1500, 8: 2000}
