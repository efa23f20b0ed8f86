"""Each event's hash enters the tree of its partition's log once, and the tree outlives what its stores lose."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from audit_consumer import log_tree
from audit_consumer.checkpoints import make_checkpoint
from audit_consumer.rebuild import rebuild_projection
from flotilla.audit.log_tiles import load_consistency_proof, load_inclusion_proof, load_newest_tree, read_tiles
from flotilla.audit.notes import TreeHead, decode_note, decode_tree_head, why_tree_head_not_trusted
from flotilla.audit.proof import merkle_root, merkle_root_from_path, split_concatenated_leaves
from flotilla.audit.tree import leaf_hash
from flotilla.config import KafkaSettings
from flotilla.config.signing import load_signer, signer_with_new_key
from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.errors import RetryLater
from flotilla.kafka.lanes import lane_of_session
from flotilla.kafka.session_log import open_kafka_log
from flotilla.postgres import Pool
from tests.support.audit import (
    Projected,
    audit_settings,
    event_at,
    events_of,
    project_directly,
    publish,
    records_of,
    running_audit,
    until_anchored,
)
from tests.support.ground import Ground
from tests.support.log_witness import is_consistent
from tests.support.postgres import Database

LANE = lane_of_session("default", "s1")
BESIDE = next(f"x{n}" for n in range(200) if lane_of_session("default", f"x{n}") == LANE)
"""Another session of the same partition."""


async def tree_of(pool: Pool) -> tuple[TreeHead, list[bytes]]:
    """The partition's newest signed head, and its entries."""
    async with pool.acquire() as connection:
        raw = await connection.fetchval(
            "SELECT tree_note FROM audit.checkpoints WHERE kafka_partition = $1 ORDER BY number DESC LIMIT 1", LANE
        )
        head = decode_tree_head(decode_note(raw))
        tiles = await read_tiles(connection, LANE, [(0, number) for number in range(-(-head.size // 256))])
    entries = [entry for place in sorted(tiles) for entry in split_concatenated_leaves(tiles[place])][: head.size]
    assert merkle_root([leaf_hash(entry) for entry in entries]) == head.root
    return head, entries


async def hashes_of(projected: Projected, session_id: str) -> list[bytes]:
    rows = await projected.fetch("SELECT hash FROM audit.session_events WHERE session_id = $1 ORDER BY seq", session_id)
    return [row["hash"] for row in rows]


def records(events: Sequence[AgentEvent]) -> list[tuple[str, str, bytes]]:
    return [("default", event.subject, encode_event(event)) for event in events]


async def test_every_events_hash_is_an_entry_and_its_place_is_known(audit_pool: Pool, projected: Projected) -> None:
    signer = signer_with_new_key()
    found = records_of(
        records([*events_of("s1", range(1, 4)), *events_of(BESIDE, [1, 2]), *events_of("s1", range(4, 303))])
    )
    await project_directly(audit_pool, found[:5], signer)
    first, _ = await tree_of(audit_pool)
    await project_directly(audit_pool, found[5:], signer)
    head, entries = await tree_of(audit_pool)
    assert entries == [
        *(await hashes_of(projected, "s1"))[:3],
        *await hashes_of(projected, BESIDE),
        *(await hashes_of(projected, "s1"))[3:],
    ]
    assert why_tree_head_not_trusted(decode_note((await notes(projected))[-1]), head, signer.public_keys()) is None
    assert head.origin == f"flotilla.invalid/audit/{LANE}"
    rows = await projected.fetch(
        "SELECT seq, hash, log_index, log_entries FROM audit.checkpoint_heads WHERE session_id = 's1' ORDER BY seq"
    )
    assert [(row["seq"], row["log_entries"]) for row in rows] == [(3, 3), (302, 299)]
    async with audit_pool.acquire() as connection:
        for row in rows:
            path = await load_inclusion_proof(connection, LANE, row["log_index"], head.size)
            assert merkle_root_from_path(leaf_hash(row["hash"]), row["log_index"], head.size, path) == head.root
        path = await load_consistency_proof(connection, LANE, first.size, head.size)
    assert is_consistent(first.size, first.root, head.size, head.root, path)


async def notes(projected: Projected) -> list[bytes]:
    rows = await projected.fetch(
        "SELECT tree_note FROM audit.checkpoints WHERE kafka_partition = $1 ORDER BY number", LANE
    )
    return [row["tree_note"] for row in rows]


async def test_a_session_with_more_events_than_a_checkpoint_takes_goes_on_in_the_next(
    audit_pool: Pool, projected: Projected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tree, "MAX_ENTRIES_PER_CHECKPOINT", 100)
    signer = signer_with_new_key()
    await project_directly(audit_pool, records_of(records([*events_of("s1", range(1, 251)), *events_of(BESIDE, [1])])))
    made = 0
    while await make_checkpoint(audit_pool, LANE, 251, signer):
        made += 1
    assert made == 3
    _, entries = await tree_of(audit_pool)
    assert sorted(entries) == sorted([*await hashes_of(projected, "s1"), *await hashes_of(projected, BESIDE)])
    rows = await projected.fetch("SELECT seq FROM audit.checkpoint_heads WHERE session_id = 's1' ORDER BY seq")
    assert [row["seq"] for row in rows][-1] == 250


async def test_events_of_a_former_version_enter_the_tree(audit_pool: Pool, projected: Projected) -> None:
    signer = signer_with_new_key()
    found = records_of(records(events_of("s1", range(1, 6))))
    await project_directly(audit_pool, found[:3], signer)
    await projected.execute("UPDATE audit.checkpoints SET tree_size = NULL, tree_entries = NULL, tree_note = NULL")
    await projected.execute("UPDATE audit.checkpoint_heads SET log_index = NULL, log_entries = NULL")
    await project_directly(audit_pool, found[3:], signer)
    _, entries = await tree_of(audit_pool)
    assert entries == await hashes_of(projected, "s1")


async def test_a_tree_whose_tiles_are_gone_waits_to_be_restored(audit_pool: Pool, projected: Projected) -> None:
    signer = signer_with_new_key()
    found = records_of(records(events_of("s1", range(1, 6))))
    await project_directly(audit_pool, found[:3], signer)
    await projected.execute("DELETE FROM audit.log_tiles")
    with pytest.raises(RetryLater, match=r"can't grow.*Restore audit\.log_tiles"):
        await project_directly(audit_pool, found[3:], signer)


async def test_a_rebuild_leaves_the_tree_and_adds_nothing_to_it_twice(
    database: Database, kafka: KafkaSettings, audit_pool: Pool, projected: Projected, tmp_path: Path
) -> None:
    settings = audit_settings(database, kafka, tmp_path)
    await publish(kafka, events_of("s1", range(1, 21)))
    async with running_audit(settings):
        await projected.until("s1", 20)
        await until_anchored(projected)
    before, _ = await tree_of(audit_pool)
    await rebuild_projection(settings)
    await publish(kafka, [event_at("s1", 21)])
    async with running_audit(settings):
        await projected.until("s1", 21)
        await until_anchored(projected)
    after, entries = await tree_of(audit_pool)
    assert (before.size, after.size) == (20, 21)
    assert entries == await hashes_of(projected, "s1")


async def test_a_database_that_lost_its_newest_checkpoints_goes_on_with_the_tree_that_others_saw(
    database: Database, kafka: KafkaSettings, audit_pool: Pool, projected: Projected, tmp_path: Path
) -> None:
    settings = audit_settings(database, kafka, tmp_path, audit_log_origin="log.example.com/a")
    async with running_audit(settings):
        for seq in range(1, 5):
            await publish(kafka, [event_at("s1", seq)])
            await projected.until("s1", seq)
            await until_anchored(projected)
    seen, entries = await tree_of(audit_pool)
    async with audit_pool.acquire() as connection:
        signed = await load_newest_tree(connection, LANE)
    assert signed is not None
    assert decode_tree_head(decode_note(signed.note)) == seen
    await projected.execute("DELETE FROM audit.checkpoint_heads WHERE number > 2")
    await projected.execute("DELETE FROM audit.checkpoints WHERE number > 2")
    await projected.execute("UPDATE audit.log_tiles SET hashes = substr(hashes, 1, 64)")
    await projected.execute("UPDATE audit.session_heads SET dirty = true")
    async with running_audit(settings):
        await until_anchored(projected)
    head, later = await tree_of(audit_pool)
    assert head.origin == f"log.example.com/a/{LANE}"
    assert later[: seen.size] == entries
    assert later[seen.size :] == entries[2:], "what was lost with them is logged again"
    async with audit_pool.acquire() as connection:
        path = await load_consistency_proof(connection, LANE, seen.size, head.size)
    assert is_consistent(seen.size, seen.root, head.size, head.root, path)


async def test_the_tree_can_be_built_again_from_kafka(
    database: Database, kafka: KafkaSettings, audit_pool: Pool, projected: Projected, tmp_path: Path
) -> None:
    settings = audit_settings(database, kafka, tmp_path)
    async with running_audit(settings):
        for events in (events_of("s1", range(1, 301)), events_of(BESIDE, range(1, 4)), events_of("s1", [301])):
            await publish(kafka, events)
            await projected.until(events[-1].subject, events[-1].sequence or 0)
            await until_anchored(projected)
    head, entries = await tree_of(audit_pool)
    async with open_kafka_log(kafka) as log:
        copies = await log.read_checkpoints()
    own = [copies[place] for place in sorted(copies) if place[0] == LANE]
    assert b"".join(copy.tree_entries for copy in own) == b"".join(entries)
    assert decode_tree_head(decode_note(own[-1].tree_note)) == head
    assert (
        why_tree_head_not_trusted(
            decode_note(own[-1].tree_note), head, load_signer(settings.audit_signing_key_file).public_keys()
        )
        is None
    )


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (
            "tree_note = decode(replace(encode(tree_note, 'escape'), E'\\n10\\n', E'\\n11\\n'), 'escape')",
            "no signature",
        ),
        ("tree_note = ''", "no signatures"),
        ("tree_size = 9", "with 10 entries"),
        ("tree_note = NULL", "no signatures"),
    ],
)
async def test_a_note_of_the_tree_that_is_changed_is_found(ground: Ground, damage: str, problem: str) -> None:
    assert (await ground.verify()).ok
    await ground.projected.execute(f"UPDATE audit.checkpoints SET {damage} WHERE kafka_partition = {LANE}")
    verdict = await ground.verify()
    assert any(problem in found.detail for found in verdict.problems), verdict.problems
