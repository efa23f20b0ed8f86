"""Anchors the chain heads of a partition in signed checkpoints, in PostgreSQL and in Kafka."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import accumulate

import asyncpg
from aiokafka import AIOKafkaProducer

from audit_consumer.log_tree import (
    SignedSessionHead,
    append_lost_checkpoints_entries,
    load_tree,
    load_tree_entries,
    take_changed_heads,
    upsert_tiles,
)
from flotilla.audit.notes import TreeHead, sign_tree_head
from flotilla.audit.proof import (
    NO_PREVIOUS_CHECKPOINT,
    HistoryRewind,
    Statement,
    digest_of_statements,
    merkle_root,
    session_head_leaf,
)
from flotilla.audit.tree import MerkleTreeEdge
from flotilla.config.signing import Signer
from flotilla.contracts.checkpoints import CheckpointRecord
from flotilla.contracts.ids import Clock, utc_now
from flotilla.contracts.names import AUDIT_LOG_ORIGIN, log_origin
from flotilla.postgres import Connection, Pool

MAX_HEADS_PER_CHECKPOINT = 10_000
"""Most heads of one checkpoint: its leaves are 320 kB then."""

_TAKE_REWINDS = """
SELECT tenant_id, session_id, request_id, from_seq, base_hash, old_seq, old_hash FROM audit.rewinds
WHERE kafka_partition = $1 AND number IS NULL ORDER BY decided_at, tenant_id, session_id LIMIT $2
"""
_SIGN_REWINDS = """
UPDATE audit.rewinds AS r SET number = $1, leaf_index = $2 + w.n - 1
FROM unnest($3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS w (tenant_id, session_id, request_id, n)
WHERE r.tenant_id = w.tenant_id AND r.session_id = w.session_id AND r.request_id = w.request_id
"""
# Fenced like a batch: only the owner of the partition, at the offset it knows, makes a checkpoint.
_LOCK_PARTITION_OFFSET = (
    "SELECT last_record FROM consumer_offsets WHERE kafka_partition = $1 AND next_offset = $2 FOR UPDATE"
)
_SELECT_LAST_CHECKPOINT = """
SELECT number, statement, (
    SELECT p.published_offset FROM audit.checkpoints AS p
    WHERE p.kafka_partition = $1 AND p.published_offset IS NOT NULL ORDER BY p.number DESC LIMIT 1) AS published_offset
FROM audit.checkpoints WHERE kafka_partition = $1 ORDER BY number DESC LIMIT 1
"""
_INSERT_CHECKPOINT = """
INSERT INTO audit.checkpoints (kafka_partition, number, statement, signature, key_id, leaves, created_at, tree_size,
    tree_entries, tree_note)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_INSERT_HEADS = """
INSERT INTO audit.checkpoint_heads (tenant_id, session_id, seq, hash, kafka_partition, number, leaf_index, log_index,
    log_entries)
SELECT h.tenant_id, h.session_id, h.seq, h.hash, $1, $2, h.n - 1, h.log_index, h.log_entries
FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::bigint[], $8::integer[]) WITH ORDINALITY
    AS h (tenant_id, session_id, seq, hash, log_index, log_entries, n)
"""
_SELECT_UNPUBLISHED = """
SELECT kafka_partition, number, statement, signature, key_id, leaves, tree_size, tree_entries, tree_note
FROM audit.checkpoints WHERE kafka_partition = $1 AND published_at IS NULL ORDER BY number
"""
_MARK_PUBLISHED = """
UPDATE audit.checkpoints SET published_at = now(), published_offset = $3
WHERE kafka_partition = $1 AND number <= $2 AND published_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class LastCheckpoint:
    """A partition's newest checkpoint in PostgreSQL, and where Kafka has a copy of it or of one before."""

    number: int = 0
    statement: bytes | None = None
    published_offset: int | None = None


async def load_last_checkpoint(pool: Pool, partition: int) -> LastCheckpoint:
    """What the next checkpoint of the partition follows."""
    row = await pool.fetchrow(_SELECT_LAST_CHECKPOINT, partition)
    return LastCheckpoint(row["number"], row["statement"], row["published_offset"]) if row else LastCheckpoint()


async def make_checkpoint(
    pool: Pool,
    partition: int,
    next_offset: int,
    signer: Signer,
    *,
    origin: str = AUDIT_LOG_ORIGIN,
    abandoned: Sequence[CheckpointRecord] = (),
    clock: Clock = utc_now,
) -> int | None:
    """Anchors up to 10,000 heads that changed since the partition's last checkpoint; returns its number.

    Their events' hashes go into the log's tree, which is signed in the name of `origin`. `abandoned` were signed after
    the last one and are lost from PostgreSQL: their numbers are left out, and a new epoch begins.

    None when nothing changed, or when the partition no longer stands at `next_offset` (another consumer owns it).
    """
    async with pool.acquire() as connection, connection.transaction():
        standing = await connection.fetchrow(_LOCK_PARTITION_OFFSET, partition, next_offset)
        if standing is None:
            return None
        heads = await take_changed_heads(connection, partition, MAX_HEADS_PER_CHECKPOINT)
        rewinds = await connection.fetch(_TAKE_REWINDS, partition, MAX_HEADS_PER_CHECKPOINT)
        if not heads and not rewinds:
            return None
        leaves = [*_head_leaves(heads), *(_rewind_from_row(row).to_merkle_leaf() for row in rewinds)]
        last = await connection.fetchrow(_SELECT_LAST_CHECKPOINT, partition)
        previous = Statement.from_bytes(last["statement"]) if last else None
        statement = Statement(
            partition=partition,
            number=(previous.number if previous else 0) + len(abandoned) + 1,
            previous=sha256(last["statement"]).hexdigest() if last else NO_PREVIOUS_CHECKPOINT,
            next_offset=next_offset,
            heads=len(heads),
            merkle_root=merkle_root(leaves).hex(),
            created_at=clock().isoformat(),
            epoch=(previous.epoch if previous else 1) + (1 if abandoned or rewinds else 0),
            last_record=(standing["last_record"] or b"").hex(),
            rewinds=len(rewinds),
            abandoned=len(abandoned),
            abandoned_digest=digest_of_statements(record.statement for record in abandoned) if abandoned else "",
        )
        grown = await _grow_tree(connection, partition, heads, abandoned)
        note = sign_tree_head(TreeHead(log_origin(origin, partition), grown.tree.size, grown.tree.root_hash()), signer)
        await _sign_and_insert_checkpoint(
            connection, statement, leaves, signer, (grown.tree.size, grown.entries, note.to_bytes())
        )
        await _insert_heads(connection, statement, heads, grown.indexes)
        await _mark_rewinds_signed(connection, statement, rewinds)
        return statement.number


async def publish_checkpoints(pool: Pool, producer: AIOKafkaProducer, topic: str, partition: int) -> None:
    """Send the partition's checkpoints that Kafka does not have yet, oldest first; at least once each."""
    for row in await pool.fetch(_SELECT_UNPUBLISHED, partition):
        record = CheckpointRecord(
            partition=partition,
            number=row["number"],
            statement=row["statement"],
            signature=row["signature"],
            key_id=row["key_id"],
            leaves=row["leaves"],
            tree_note=row["tree_note"] or b"",
            tree_entries=await _load_tree_entries_of(pool, row),
        )
        sent = await producer.send_and_wait(topic, record.to_json(), key=str(partition).encode())
        await pool.execute(_MARK_PUBLISHED, partition, row["number"], sent.offset)


async def _load_tree_entries_of(pool: Pool, row: asyncpg.Record) -> bytes:
    if not row["tree_entries"]:
        return b""
    size: int = row["tree_size"]
    return await load_tree_entries(pool, row["kafka_partition"], size - row["tree_entries"], size)


@dataclass(frozen=True, slots=True)
class _GrownTree:
    """The log's tree with a checkpoint's entries."""

    tree: MerkleTreeEdge
    entries: int
    indexes: Sequence[int | None]
    """Per head, its entry."""


async def _grow_tree(
    connection: Connection, partition: int, heads: Sequence[SignedSessionHead], lost: Sequence[CheckpointRecord]
) -> _GrownTree:
    tree = await load_tree(connection, partition)
    tiles = append_lost_checkpoints_entries(tree, lost)
    first = tree.size
    tiles |= tree.append_entries(entry for head in heads for entry in head.entries)
    await upsert_tiles(connection, partition, tiles)
    ends = accumulate(len(head.entries) for head in heads)
    indexes = [first + end - 1 if head.entries else head.logged_at for head, end in zip(heads, ends, strict=True)]
    return _GrownTree(tree, tree.size - first, indexes)


async def _sign_and_insert_checkpoint(
    connection: Connection,
    statement: Statement,
    leaves: Sequence[bytes],
    signer: Signer,
    tree: tuple[int, int, bytes],
) -> None:
    place = (statement.partition, statement.number)
    body = statement.to_bytes()
    created_at = datetime.fromisoformat(statement.created_at)
    await connection.execute(
        _INSERT_CHECKPOINT, *place, body, signer.sign(body), signer.key_id, b"".join(leaves), created_at, *tree
    )


async def _insert_heads(
    connection: Connection,
    statement: Statement,
    heads: Sequence[SignedSessionHead],
    indexes: Sequence[int | None],
) -> None:
    rows = [(h.tenant_id, h.session_id, h.seq, h.hash, i, len(h.entries)) for h, i in zip(heads, indexes, strict=True)]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 6
    await connection.execute(_INSERT_HEADS, statement.partition, statement.number, *columns)


async def _mark_rewinds_signed(connection: Connection, statement: Statement, rewinds: Sequence[asyncpg.Record]) -> None:
    if rewinds:
        keys = [[row[name] for row in rewinds] for name in ("tenant_id", "session_id", "request_id")]
        await connection.execute(_SIGN_REWINDS, statement.number, statement.heads, *keys)


def _rewind_from_row(row: asyncpg.Record) -> HistoryRewind:
    return HistoryRewind(
        tenant_id=row["tenant_id"],
        session_id=row["session_id"],
        from_seq=row["from_seq"],
        base=row["base_hash"],
        old_seq=row["old_seq"],
        old_hash=row["old_hash"],
    )


def _head_leaves(heads: Sequence[SignedSessionHead]) -> list[bytes]:
    return [session_head_leaf(head.tenant_id, head.session_id, head.seq, head.hash) for head in heads]
