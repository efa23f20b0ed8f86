"""Anchors the chain heads of a partition in signed checkpoints, in PostgreSQL and in Kafka."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256

import asyncpg
from aiokafka import AIOKafkaProducer

from flotilla.contracts.ids import Clock, utc_now
from flotilla.eventstore.checkpoint_records import CheckpointRecord
from flotilla.eventstore.proof import NO_CHECKPOINT, Statement, head_leaf, merkle_root
from flotilla.eventstore.signing import Signer
from flotilla.postgres import Connection, Pool

MAX_HEADS = 10_000
"""Most heads of one checkpoint: its leaves are 320 kB then."""

# Fenced like a batch: only the owner of the partition, at the offset it knows, makes a checkpoint.
_LOCK = "SELECT last_record FROM consumer_offsets WHERE kafka_partition = $1 AND next_offset = $2 FOR UPDATE"
_TAKE_DIRTY = """
UPDATE session_heads AS h SET dirty = false
FROM (SELECT tenant_id, session_id FROM session_heads WHERE kafka_partition = $1 AND dirty LIMIT $2) AS d
WHERE h.tenant_id = d.tenant_id AND h.session_id = d.session_id
RETURNING h.tenant_id, h.session_id, h.seq, h.hash
"""
_LAST = "SELECT number, statement FROM audit.checkpoints WHERE kafka_partition = $1 ORDER BY number DESC LIMIT 1"
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
UPDATE audit.checkpoints SET published_at = now()
WHERE kafka_partition = $1 AND number <= $2 AND published_at IS NULL
"""


async def make_checkpoint(
    pool: Pool, partition: int, next_offset: int, signer: Signer, *, clock: Clock = utc_now
) -> int | None:
    """Anchors up to 10,000 heads that changed since the partition's last checkpoint; gives its number.

    None when nothing changed, or when the partition no longer stands at `next_offset` (another consumer owns it).
    """
    async with pool.acquire() as connection, connection.transaction():
        standing = await connection.fetchrow(_LOCK, partition, next_offset)
        if standing is None:
            return None
        heads = await connection.fetch(_TAKE_DIRTY, partition, MAX_HEADS)
        if not heads:
            return None
        heads.sort(key=lambda row: (row["tenant_id"], row["session_id"]))
        last_record = (standing["last_record"] or b"").hex()
        statement = await _next_statement(connection, (partition, next_offset, last_record), heads, clock())
        await _add(connection, statement, heads, signer)
        return statement.number


async def publish_checkpoints(pool: Pool, producer: AIOKafkaProducer, topic: str, partition: int) -> None:
    """Sends the partition's checkpoints that Kafka does not have yet, oldest first; at least once each."""
    for row in await pool.fetch(_UNPUBLISHED, partition):
        record = CheckpointRecord(
            partition=partition,
            number=row["number"],
            statement=row["statement"],
            signature=row["signature"],
            key_id=row["key_id"],
            leaves=row["leaves"],
        )
        await producer.send_and_wait(topic, record.to_json(), key=str(partition).encode())
        await pool.execute(_PUBLISHED, partition, row["number"])


async def _next_statement(
    connection: Connection, place: tuple[int, int, str], heads: Sequence[asyncpg.Record], now: datetime
) -> Statement:
    partition, next_offset, last_record = place
    last = await connection.fetchrow(_LAST, partition)
    return Statement(
        partition=partition,
        number=last["number"] + 1 if last else 1,
        previous=sha256(last["statement"]).hexdigest() if last else NO_CHECKPOINT,
        next_offset=next_offset,
        heads=len(heads),
        merkle_root=merkle_root(_leaves(heads)).hex(),
        created_at=now.isoformat(),
        epoch=Statement.from_bytes(last["statement"]).epoch if last else 1,
        last_record=last_record,
    )


async def _add(connection: Connection, statement: Statement, heads: Sequence[asyncpg.Record], signer: Signer) -> None:
    place = (statement.partition, statement.number)
    body = statement.to_bytes()
    created_at = datetime.fromisoformat(statement.created_at)
    leaves = b"".join(_leaves(heads))
    await connection.execute(_ADD, *place, body, signer.sign(body), signer.key_id, leaves, created_at)
    columns = [[row[name] for row in heads] for name in ("tenant_id", "session_id", "seq", "hash")]
    await connection.execute(_ADD_HEADS, *place, *columns)


def _leaves(heads: Sequence[asyncpg.Record]) -> list[bytes]:
    return [head_leaf(row["tenant_id"], row["session_id"], row["seq"], row["hash"]) for row in heads]
