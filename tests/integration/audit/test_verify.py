"""Whatever is done to a history behind the audit consumer's back, `verify` names it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from flotilla.audit.kafka_witness import KafkaWitness
from flotilla.audit.proof import Statement, genesis_hash, merkle_root, session_head_leaf
from flotilla.audit.verify import HistoryVerifier
from flotilla.config.signing import create_key_pair, load_public_keys
from flotilla.contracts.checkpoints import CheckpointRecord
from flotilla.contracts.errors import NotFound
from flotilla.eventstore.log import LineageSegment
from flotilla.kafka.records import LoggedEvent
from flotilla.kafka.session_log import KafkaEventLog
from tests.support.ground import Ground

EDIT = """
UPDATE audit.session_events SET body = convert_to(replace(convert_from(body, 'UTF8'), 'm4', 'M4'), 'UTF8'),
    event = replace(event::text, 'm4', 'M4')::jsonb
WHERE session_id = 's1' AND seq = 4
"""
SWAP = """
UPDATE audit.session_events AS e SET body = o.body, event = o.event, event_id = o.event_id
FROM audit.session_events AS o
WHERE e.session_id = 's1' AND o.session_id = 's1' AND e.seq + o.seq = 7 AND e.seq IN (3, 4)
"""
SLIP_IN = """
INSERT INTO audit.session_events SELECT tenant_id, session_id, 11, gen_random_uuid(), type, occurred_at, run_id,
    task_id, rolled_back_to, traceparent, kafka_partition, kafka_offset + 1,
    sha256(hash || convert_to(replace(convert_from(body, 'UTF8'), '"sequence":10', '"sequence":11'), 'UTF8')),
    convert_to(replace(convert_from(body, 'UTF8'), '"sequence":10', '"sequence":11'), 'UTF8'),
    replace(convert_from(body, 'UTF8'), '"sequence":10', '"sequence":11')::jsonb, now()
FROM audit.session_events WHERE session_id = 's1' AND seq = 10
"""


@pytest.mark.parametrize("with_kafka", [False, True])
async def test_an_untouched_history_is_good(ground: Ground, *, with_kafka: bool) -> None:
    if with_kafka:
        await ground.into_kafka()
    verdict = await ground.verify(None, with_kafka=with_kafka)
    assert verdict.ok, verdict.problems
    assert {(s.session_id, s.verified_seq, s.anchored_seq) for s in verdict.sessions} == {("s1", 10, 10), ("s2", 9, 9)}
    assert (verdict.signatures_checked, verdict.kafka_checked) == (True, with_kafka)
    fork = await ground.verify("s2", with_kafka=with_kafka)
    # The parent up to event 10, where it is signed: up to 6, where it was forked, nobody vouches for it.
    assert [(s.session_id, s.events, s.anchored_seq) for s in fork.sessions] == [("s2", 3, 9), ("s1", 10, 10)]


@pytest.mark.parametrize("with_kafka", [False, True])
@pytest.mark.parametrize(
    ("damage", "kind", "seq"),
    [
        (EDIT, "edited", 4),
        ("DELETE FROM audit.session_events WHERE session_id = 's1' AND seq = 4", "deleted", 4),
        (SWAP, "swapped", 3),
        ("DELETE FROM audit.session_events WHERE session_id = 's1' AND seq > 7", "truncated", 8),
    ],
    ids=["edited", "deleted", "swapped", "truncated"],
)
async def test_damage_is_named_with_the_first_bad_event(
    ground: Ground, damage: str, kind: str, seq: int, *, with_kafka: bool
) -> None:
    if with_kafka:
        await ground.into_kafka()
    await ground.projected.execute(damage)
    assert await ground.first_bad(with_kafka=with_kafka) == (kind, seq)
    assert await ground.first_bad(None, with_kafka=with_kafka) == (kind, seq)


@pytest.mark.parametrize("with_kafka", [False, True])
async def test_damage_in_the_prefix_of_a_fork_is_found_from_the_fork(ground: Ground, *, with_kafka: bool) -> None:
    if with_kafka:
        await ground.into_kafka()
    await ground.projected.execute(EDIT)
    assert await ground.first_bad("s2", with_kafka=with_kafka) == ("edited", 4)


async def test_a_truncation_with_head_and_all_is_found_by_the_checkpoints(ground: Ground) -> None:
    await ground.projected.execute("DELETE FROM audit.session_events WHERE session_id = 's1' AND seq > 7")
    await ground.projected.execute("""
        UPDATE audit.session_heads SET seq = 7, hash = (
            SELECT hash FROM audit.session_events WHERE session_id = 's1' AND seq = 7)
        WHERE session_id = 's1'""")
    assert await ground.first_bad() == ("truncated", 8)


async def test_a_wholly_rewritten_chain_is_found_by_the_checkpoints(ground: Ground) -> None:
    await ground.into_kafka()
    await ground.projected.execute(EDIT)
    await ground.rechain("s1", genesis_hash("default", "s1"))
    assert await ground.first_bad() == ("rewritten", 10)
    assert await ground.first_bad(with_kafka=True) == ("rewritten", 4)


async def test_a_fork_whose_parents_prefix_is_wholly_rewritten_is_found_from_the_fork(ground: Ground) -> None:
    await ground.projected.execute(EDIT)
    await ground.rechain("s1", genesis_hash("default", "s1"))
    assert await ground.first_bad("s2") == ("rewritten", 10)


async def test_a_chain_rewritten_together_with_its_anchors_is_found_by_the_signatures(ground: Ground) -> None:
    await ground.projected.execute(EDIT)
    await ground.rechain("s1", genesis_hash("default", "s1"))
    await ground.projected.execute("""
        UPDATE audit.checkpoint_heads AS c SET hash = e.hash FROM audit.session_events AS e
        WHERE c.session_id = 's1' AND e.session_id = 's1' AND e.seq = c.seq""")
    assert await ground.first_bad() == ("rewritten", 10)
    (row,) = await ground.projected.fetch("SELECT * FROM audit.checkpoint_heads WHERE session_id = 's1'")
    leaf = session_head_leaf("default", "s1", row["seq"], row["hash"])
    await ground.projected.execute(
        "UPDATE audit.checkpoints SET leaves = $3 WHERE kafka_partition = $1 AND number = $2",
        row["kafka_partition"],
        row["number"],
        leaf,
    )
    verdict = await ground.verify()
    assert "its leaves are not those that were signed" in verdict.problems[0].detail


async def test_a_checkpoint_made_to_fit_a_rewritten_chain_fails_only_by_its_signature(ground: Ground) -> None:
    await ground.projected.execute(EDIT)
    await ground.rechain("s1", genesis_hash("default", "s1"))
    (head,) = await ground.projected.fetch("SELECT * FROM audit.session_heads WHERE session_id = 's1'")
    (row,) = await ground.projected.fetch(
        """
        UPDATE audit.checkpoint_heads SET hash = $1 WHERE session_id = 's1' RETURNING kafka_partition, number""",
        head["hash"],
    )
    leaf = session_head_leaf("default", "s1", 10, head["hash"])
    (checkpoint,) = await ground.projected.fetch(
        "SELECT statement FROM audit.checkpoints WHERE kafka_partition = $1 AND number = $2", *row
    )
    forged = replace(Statement.from_bytes(checkpoint["statement"]), merkle_root=merkle_root([leaf]).hex())
    await ground.projected.execute(
        "UPDATE audit.checkpoints SET leaves = $3, statement = $4 WHERE kafka_partition = $1 AND number = $2",
        *row,
        leaf,
        forged.to_bytes(),
    )
    verdict = await ground.verify()
    assert ["has a wrong signature" in problem.detail for problem in verdict.problems] == [True]


async def test_a_session_that_vanished_with_its_anchors_is_missed(ground: Ground) -> None:
    await ground.into_kafka()
    for table in ("session_events", "session_heads", "checkpoint_heads"):
        await ground.projected.execute(f"DELETE FROM audit.{table} WHERE session_id = 's2'")
    verdict = await ground.verify(None)
    assert [problem.kind for problem in verdict.problems] == ["checkpoint"]
    assert "0 of its 1 heads are on record" in verdict.problems[0].detail
    found = await ground.verify(None, with_kafka=True)
    assert ("truncated", "s2", 7) in {(p.kind, p.session_id, p.seq) for p in found.problems}


async def test_checkpoints_that_are_removed_are_missed_thanks_to_kafka(ground: Ground) -> None:
    await ground.into_kafka()
    await ground.projected.execute("DELETE FROM audit.checkpoint_heads")
    await ground.projected.execute("DELETE FROM audit.checkpoints")
    assert (await ground.verify()).ok
    verdict = await ground.verify(with_kafka=True)
    assert {problem.kind for problem in verdict.problems} == {"checkpoint"}


async def test_a_checkpoint_signed_with_another_key_is_not_believed(ground: Ground, tmp_path: Path) -> None:
    create_key_pair(tmp_path / "other.pem", tmp_path / "other.pub")
    keys = load_public_keys(tmp_path / "other.pub")
    verdict = await HistoryVerifier(ground.pool, "default", keys).verify_sessions("s1")
    assert "is not among the trusted ones" in verdict.problems[0].detail


class _Early(KafkaEventLog):
    """Reads Kafka a moment before the newest checkpoints and `event` come."""

    event: Callable[[], Awaitable[object]]
    has_read = False

    async def read_checkpoints(self, from_offset: int | None = None) -> dict[tuple[int, int], CheckpointRecord]:
        found = await super().read_checkpoints(from_offset) if self.has_read else {}
        self.has_read = True
        return found

    async def read_session_events(self, *what: Any, **where: Any) -> list[LoggedEvent]:
        found = await super().read_session_events(*what, **where)
        await self.event()
        return found

    async def scan_partition(self, partition: int) -> AsyncIterator[Sequence["ConsumerRecord[bytes, bytes]"]]:
        async for batch in super().scan_partition(partition):
            yield batch
        await self.event()


async def test_a_checkpoint_that_is_published_during_the_verification_is_not_missed(ground: Ground) -> None:
    await ground.into_kafka()
    log = _Early(ground.kafka)
    log.event = nothing
    verdict = await HistoryVerifier(
        ground.pool, "default", load_public_keys(ground.folder / "audit.pub"), log
    ).verify_sessions("s1")
    await log.close()
    assert verdict.ok, verdict.problems


@pytest.mark.parametrize("whole_topic", [False, True])
async def test_an_event_that_is_projected_during_the_verification_was_not_added(
    ground: Ground, *, whole_topic: bool
) -> None:
    await ground.into_kafka()
    log = _Early(ground.kafka)
    log.event = lambda: ground.projected.execute(f"{SLIP_IN} ON CONFLICT DO NOTHING")
    witness = KafkaWitness(ground.pool, "default", log)
    found = await (
        witness.check_all_sessions() if whole_topic else witness.check_sessions([LineageSegment("s1", 0, 2**62)])
    )
    await log.close()
    assert found == {}


async def nothing() -> None:
    """No event comes."""


async def test_an_event_that_was_slipped_in_is_found(ground: Ground) -> None:
    await ground.into_kafka()
    await ground.projected.execute(SLIP_IN)
    await ground.projected.execute("""
        UPDATE audit.session_heads SET seq = 11, hash = (
            SELECT hash FROM audit.session_events WHERE session_id = 's1' AND seq = 11)
        WHERE session_id = 's1'""")
    assert (await ground.verify()).ok
    assert await ground.first_bad(with_kafka=True) == ("added", 11)


async def test_a_json_copy_that_lies_is_found(ground: Ground) -> None:
    await ground.projected.execute(
        "UPDATE audit.session_events SET event = event || '{\"source\": \"/liar\"}' WHERE session_id = 's1' AND seq = 5"
    )
    assert await ground.first_bad() == ("copy", 5)


async def test_a_fork_whose_parent_is_changed_is_found(ground: Ground) -> None:
    await ground.projected.execute("UPDATE flotilla.sessions SET forked_at_seq = 5 WHERE session_id = 's2'")
    verdict = await ground.verify("s2")
    assert not verdict.ok


async def test_an_unknown_session_is_not_good_but_not_found(ground: Ground) -> None:
    with pytest.raises(NotFound):
        await ground.verify("s9")
    with pytest.raises(NotFound):
        await HistoryVerifier(ground.pool, "globex").verify_sessions("s1")
