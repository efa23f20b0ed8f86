"""Anchors the chain heads of a partition in signed checkpoints, in PostgreSQL and in Kafka."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import accumulate

import asyncpg
from aiokafka import AIOKafkaProducer

from audit_consumer.log_tree import SignedSessionHead, append_lost, entries_between, load_tree, store_tiles, take_heads
from flotilla.audit.notes import TreeHead, sign_head
from flotilla.audit.proof import NO_CHECKPOINT, Rewind, Statement, combined_digest, head_leaf, merkle_root
from flotilla.audit.tree import Tree
from flotilla.config.signing import Signer
from flotilla.contracts.checkpoints import CheckpointRecord
from flotilla.contracts.ids import Clock, utc_now
from flotilla.contracts.names import AUDIT_LOG_ORIGIN, log_origin
from flotilla.postgres import Connection, Pool

MAX_HEADS = 10_000
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
_LOCK = "SELECT last_record FROM consumer_offsets WHERE kafka_partition = $1 AND next_offset = $2 FOR UPDATE"
_LAST = """
SELECT number, statement, (
    SELECT p.published_offset FROM audit.checkpoints AS p
    WHERE p.kafka_partition = $1 AND p.published_offset IS NOT NULL ORDER BY p.number DESC LIMIT 1) AS published_offset
FROM audit.checkpoints WHERE kafka_partition = $1 ORDER BY number DESC LIMIT 1
"""
_ADD = """
INSERT INTO audit.checkpoints (kafka_partition, number, statement, signature, key_id, leaves, created_at, tree_size,
    tree_entries, tree_note)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_ADD_HEADS = """
INSERT INTO audit.checkpoint_heads (tenant_id, session_id, seq, hash, kafka_partition, number, leaf_index, log_index,
    log_entries)
SELECT h.tenant_id, h.session_id, h.seq, h.hash, $1, $2, h.n - 1, h.log_index, h.log_entries
FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::bigint[], $8::integer[]) WITH ORDINALITY
    AS h (tenant_id, session_id, seq, hash, log_index, log_entries, n)
"""
_UNPUBLISHED = """
SELECT kafka_partition, number, statement, signature, key_id, leaves, tree_size, tree_entries, tree_note
FROM audit.checkpoints WHERE kafka_partition = $1 AND published_at IS NULL ORDER BY number
"""
_PUBLISHED = """
UPDATE audit.checkpoints SET published_at = now(), published_offset = $3
WHERE kafka_partition = $1 AND number <= $2 AND published_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class Last:
    """A partition's newest checkpoint in PostgreSQL, and where Kafka has a copy of it or of one before."""

    number: int = 0
    statement: bytes | None = None
    published_offset: int | None = None


async def load_last_checkpoint(pool: Pool, partition: int) -> Last:
    """What the next checkpoint of the partition follows."""
    row = await pool.fetchrow(_LAST, partition)
    return Last(row["number"], row["statement"], row["published_offset"]) if row else Last()


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
        standing = await connection.fetchrow(_LOCK, partition, next_offset)
        if standing is None:
            return None
        heads = await take_heads(connection, partition, MAX_HEADS)
        rewinds = await connection.fetch(_TAKE_REWINDS, partition, MAX_HEADS)
        if not heads and not rewinds:
            return None
        leaves = [*_leaves(heads), *(_rewind(row).leaf() for row in rewinds)]
        last = await connection.fetchrow(_LAST, partition)
        previous = Statement.from_bytes(last["statement"]) if last else None
        statement = Statement(
            partition=partition,
            number=(previous.number if previous else 0) + len(abandoned) + 1,
            previous=sha256(last["statement"]).hexdigest() if last else NO_CHECKPOINT,
            next_offset=next_offset,
            heads=len(heads),
            merkle_root=merkle_root(leaves).hex(),
            created_at=clock().isoformat(),
            epoch=(previous.epoch if previous else 1) + (1 if abandoned or rewinds else 0),
            last_record=(standing["last_record"] or b"").hex(),
            rewinds=len(rewinds),
            abandoned=len(abandoned),
            abandoned_digest=combined_digest(record.statement for record in abandoned) if abandoned else "",
        )
        grown = await _grow(connection, partition, heads, abandoned)
        note = sign_head(TreeHead(log_origin(origin, partition), grown.tree.size, grown.tree.root()), signer)
        await _add(connection, statement, leaves, signer, (grown.tree.size, grown.entries, note.to_bytes()))
        await _add_heads(connection, statement, heads, grown.indexes)
        await _sign_rewinds(connection, statement, rewinds)
        return statement.number


async def publish_checkpoints(pool: Pool, producer: AIOKafkaProducer, topic: str, partition: int) -> None:
    """Send the partition's checkpoints that Kafka does not have yet, oldest first; at least once each."""
    for row in await pool.fetch(_UNPUBLISHED, partition):
        record = CheckpointRecord(
            partition=partition,
            number=row["number"],
            statement=row["statement"],
            signature=row["signature"],
            key_id=row["key_id"],
            leaves=row["leaves"],
            tree_note=row["tree_note"] or b"",
            tree_entries=await _entries_of(pool, row),
        )
        sent = await producer.send_and_wait(topic, record.to_json(), key=str(partition).encode())
        await pool.execute(_PUBLISHED, partition, row["number"], sent.offset)


async def _entries_of(pool: Pool, row: asyncpg.Record) -> bytes:
    if not row["tree_entries"]:
        return b""
    size: int = row["tree_size"]
    return await entries_between(pool, row["kafka_partition"], size - row["tree_entries"], size)


@dataclass(frozen=True, slots=True)
class _Grown:
    """The log's tree with a checkpoint's entries."""

    tree: Tree
    entries: int
    indexes: Sequence[int | None]
    """Per head, its entry."""


async def _grow(
    connection: Connection, partition: int, heads: Sequence[SignedSessionHead], lost: Sequence[CheckpointRecord]
) -> _Grown:
    tree = await load_tree(connection, partition)
    tiles = append_lost(tree, lost)
    first = tree.size
    tiles |= tree.append(entry for head in heads for entry in head.entries)
    await store_tiles(connection, partition, tiles)
    ends = accumulate(len(head.entries) for head in heads)
    indexes = [first + end - 1 if head.entries else head.logged_at for head, end in zip(heads, ends, strict=True)]
    return _Grown(tree, tree.size - first, indexes)


async def _add(
    connection: Connection,
    statement: Statement,
    leaves: Sequence[bytes],
    signer: Signer,
    tree: tuple[int, int, bytes],
) -> None:
    place = (statement.partition, statement.number)
    body = statement.to_bytes()
    created_at = datetime.fromisoformat(statement.created_at)
    await connection.execute(_ADD, *place, body, signer.sign(body), signer.key_id, b"".join(leaves), created_at, *tree)


async def _add_heads(
    connection: Connection, statement: Statement, heads: Sequence[SignedSessionHead], indexes: Sequence[int | None]
) -> None:
    rows = [(h.tenant_id, h.session_id, h.seq, h.hash, i, len(h.entries)) for h, i in zip(heads, indexes, strict=True)]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 6
    await connection.execute(_ADD_HEADS, statement.partition, statement.number, *columns)


async def _sign_rewinds(connection: Connection, statement: Statement, rewinds: Sequence[asyncpg.Record]) -> None:
    if rewinds:
        keys = [[row[name] for row in rewinds] for name in ("tenant_id", "session_id", "request_id")]
        await connection.execute(_SIGN_REWINDS, statement.number, statement.heads, *keys)


def _rewind(row: asyncpg.Record) -> Rewind:
    return Rewind(
        tenant_id=row["tenant_id"],
        session_id=row["session_id"],
        from_seq=row["from_seq"],
        base=row["base_hash"],
        old_seq=row["old_seq"],
        old_hash=row["old_hash"],
    )


def _leaves(heads: Sequence[SignedSessionHead]) -> list[bytes]:
    return [head_leaf(head.tenant_id, head.session_id, head.seq, head.hash) for head in heads]
