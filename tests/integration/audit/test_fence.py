"""Two owners of a partition never both write, and what is written is written once."""

import asyncio

import pytest

from audit_consumer.connections import LIVE, open_projection_pool
from audit_consumer.projection import Projection
from audit_consumer.projection_rows import PartitionTakenOver, RecordBatch
from flotilla.contracts.envelope import encode_event
from flotilla.postgres import Pool
from tests.support.audit import FakeRecord, Projected, event_at, project_directly, records_of
from tests.support.postgres import Database


def records(session_id: str, upto: int) -> list[FakeRecord]:
    return records_of(("default", session_id, encode_event(event_at(session_id, seq))) for seq in range(1, upto + 1))


async def test_a_batch_that_was_read_from_an_old_offset_writes_nothing(audit_pool: Pool, projected: Projected) -> None:
    first = records("s1", 4)
    await project_directly(audit_pool, first[:2])
    for stale in (RecordBatch(first[0].partition, 0, first), RecordBatch(first[0].partition, 3, first[3:])):
        with pytest.raises(PartitionTakenOver):
            await Projection(audit_pool).project_batches([stale])
    assert await projected.seqs("s1") == [1, 2]
    await project_directly(audit_pool, first[2:])
    assert await projected.seqs("s1") == [1, 2, 3, 4]


async def test_of_two_owners_with_the_same_batch_one_is_fenced(
    audit_pool: Pool, database: Database, projected: Projected
) -> None:
    read = records("s1", 200)
    await audit_pool.execute("INSERT INTO consumer_offsets VALUES ($1, 0)", read[0].partition)
    batch = RecordBatch(read[0].partition, 0, read)
    async with open_projection_pool(database.dsn("flotilla_audit"), LIVE, application="other") as other:
        outcomes = await asyncio.gather(
            Projection(audit_pool).project_batches([batch]),
            Projection(other).project_batches([batch]),
            return_exceptions=True,
        )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["PartitionTakenOver", "ProjectionResult"]
    assert await projected.seqs("s1") == list(range(1, 201))


async def test_a_batch_that_fails_half_way_leaves_its_offset_where_it_was(
    audit_pool: Pool, projected: Projected
) -> None:
    read = records("s1", 3)
    await projected.execute("ALTER TABLE audit.tool_usage RENAME TO gone")
    data = {"tool": "t", "call_id": "c", "ok": True, "duration_ms": 1.0}
    usage = event_at("s1", 4, kind="tool_result", data=data)
    more = FakeRecord(read[0].partition, 3, read[0].key, encode_event(usage))
    with pytest.raises(Exception, match="tool_usage"):
        await project_directly(audit_pool, [*read, more])
    assert await projected.seqs("s1") == []
    (row,) = await projected.fetch("SELECT next_offset FROM audit.consumer_offsets")
    assert row["next_offset"] == 0
