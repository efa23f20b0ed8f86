"""Anchors the chain heads of a partition in signed checkpoints, in PostgreSQL and in Kafka."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

import asyncpg
from aiokafka import AIOKafkaProducer

from flotilla.audit.proof import NO_CHECKPOINT, Rewind, Statement, digest_of, head_leaf, merkle_root
from flotilla.config.signing import Signer
from flotilla.contracts.checkpoints import CheckpointRecord
from flotilla.contracts.ids import Clock, utc_now
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
_TAKE_DIRTY = """
UPDATE session_heads AS h SET dirty = false
FROM (SELECT tenant_id, session_id FROM session_heads WHERE kafka_partition = $1 AND dirty LIMIT $2) AS d
WHERE h.tenant_id = d.tenant_id AND h.session_id = d.session_id
RETURNING h.tenant_id, h.session_id, h.seq, h.hash
"""
_LAST = """
SELECT number, statement, (
    SELECT p.published_offset FROM audit.checkpoints AS p
    WHERE p.kafka_partition = $1 AND p.published_offset IS NOT NULL ORDER BY p.number DESC LIMIT 1) AS published_offset
FROM audit.checkpoints WHERE kafka_partition = $1 ORDER BY number DESC LIMIT 1
"""
_ADD = """
INSERT INTO audit.checkpoints (kafka_partition, number, statement, signature, key_id, leaves, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_ADD_HEADS = """
INSERT INTO audit.checkpoint_heads (tenant_id, session_id, seq, hash, kafka_partition, number, leaf_index)
SELECT h.tenant_id, h.session_id, h.seq, h.hash, $1, $2, h.n - 1
FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bytea[]) WITH ORDINALITY
    AS h (tenant_id, session_id, seq, hash, n)
"""
_UNPUBLISHED = """
SELECT kafka_partition, number, statement, signature, key_id, leaves FROM audit.checkpoints
WHERE kafka_partition = $1 AND published_at IS NULL ORDER BY number
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
    abandoned: Sequence[bytes] = (),
    clock: Clock = utc_now,
) -> int | None:
    """Anchors up to 10,000 heads that changed since the partition's last checkpoint; returns its number.

    `abandoned` are statements that were signed after the last one and are lost from PostgreSQL: their numbers are left
    out, and a new epoch begins.

    None when nothing changed, or when the partition no longer stands at `next_offset` (another consumer owns it).
    """
    async with pool.acquire() as connection, connection.transaction():
        standing = await connection.fetchrow(_LOCK, partition, next_offset)
        if standing is None:
            return None
        heads = await connection.fetch(_TAKE_DIRTY, partition, MAX_HEADS)
        rewinds = await connection.fetch(_TAKE_REWINDS, partition, MAX_HEADS)
        if not heads and not rewinds:
            return None
        heads.sort(key=lambda row: (row["tenant_id"], row["session_id"]))
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
            abandoned_digest=digest_of(abandoned) if abandoned else "",
        )
        await _add(connection, statement, heads, leaves, signer)
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
        )
        sent = await producer.send_and_wait(topic, record.to_json(), key=str(partition).encode())
        await pool.execute(_PUBLISHED, partition, row["number"], sent.offset)


async def _add(
    connection: Connection,
    statement: Statement,
    heads: Sequence[asyncpg.Record],
    leaves: Sequence[bytes],
    signer: Signer,
) -> None:
    place = (statement.partition, statement.number)
    body = statement.to_bytes()
    created_at = datetime.fromisoformat(statement.created_at)
    await connection.execute(_ADD, *place, body, signer.sign(body), signer.key_id, b"".join(leaves), created_at)
    columns = [[row[name] for row in heads] for name in ("tenant_id", "session_id", "seq", "hash")]
    await connection.execute(_ADD_HEADS, *place, *columns)


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


def _leaves(heads: Sequence[asyncpg.Record]) -> list[bytes]:
    return [head_leaf(row["tenant_id"], row["session_id"], row["seq"], row["hash"]) for row in heads]
