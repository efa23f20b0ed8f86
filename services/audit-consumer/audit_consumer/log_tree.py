"""Appends the chain hashes of new events to the tree of their partition's log, with each checkpoint.

An event is known to be in the tree by the heads of earlier checkpoints: each says which entry it is, and how many of
its session's events end there. So nothing is kept per event, and neither a rebuild nor lost records touch the tree.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import asyncpg
import structlog

from flotilla.audit.log_tiles import read_tiles
from flotilla.audit.notes import decode_note, decode_tree_head
from flotilla.audit.proof import HASH_BYTES, split_concatenated_leaves
from flotilla.audit.tree import TILE_WIDTH, MerkleTreeEdge, TilePlace, edge_tiles, tree_from_edge
from flotilla.contracts.checkpoints import CheckpointRecord
from flotilla.contracts.errors import RetryLater
from flotilla.postgres import Connection, Pool
from flotilla.telemetry import metrics

MAX_ENTRIES_PER_CHECKPOINT = 8192
"""Most entries of one checkpoint: with its leaves, its record in Kafka stays below 1 MB."""

# The newest event of a session whose entry is in the tree, and still is the one that was projected.
_SELECT_CHANGED_HEADS = """
SELECT h.tenant_id, h.session_id, h.seq, h.hash, coalesce(logged.seq, h.first_seq - 1) AS logged_seq, logged.log_index
FROM (SELECT * FROM session_heads WHERE kafka_partition = $1 AND dirty LIMIT $2) AS h
LEFT JOIN LATERAL (
    SELECT c.seq, c.log_index FROM audit.checkpoint_heads AS c
    JOIN session_events AS e ON e.tenant_id = c.tenant_id AND e.session_id = c.session_id AND e.seq = c.seq
    WHERE c.tenant_id = h.tenant_id AND c.session_id = h.session_id AND c.log_index IS NOT NULL AND c.hash = e.hash
    ORDER BY c.seq DESC, c.number LIMIT 1) AS logged ON true
ORDER BY h.tenant_id, h.session_id
"""
_SELECT_NEW_HASHES = """
SELECT w.n, string_agg(e.hash, ''::bytea ORDER BY e.seq) AS hashes
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY
    AS w (tenant_id, session_id, logged_seq, upto_seq, n)
JOIN session_events AS e ON e.tenant_id = w.tenant_id AND e.session_id = w.session_id
    AND e.seq > w.logged_seq AND e.seq <= w.upto_seq
GROUP BY w.n
"""
_MARK_HEADS_SIGNED = """
UPDATE session_heads AS h SET dirty = h.seq > w.seq
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS w (tenant_id, session_id, seq)
WHERE h.tenant_id = w.tenant_id AND h.session_id = w.session_id
"""
_SELECT_TREE_SIZE = """
SELECT tree_size FROM audit.checkpoints WHERE kafka_partition = $1 AND tree_size IS NOT NULL
ORDER BY number DESC LIMIT 1
"""
_UPSERT_TILES = """
INSERT INTO audit.log_tiles (kafka_partition, level, tile, hashes)
SELECT $1, * FROM unnest($2::smallint[], $3::bigint[], $4::bytea[])
ON CONFLICT (kafka_partition, level, tile) DO UPDATE SET hashes = excluded.hashes
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SignedSessionHead:
    """A session as the checkpoint signs it, with the entries that it adds to the tree."""

    tenant_id: str
    session_id: str
    seq: int
    hash: bytes
    entries: Sequence[bytes]
    logged_at: int | None
    """Of a head without new entries: where its entry is."""


async def take_changed_heads(connection: Connection, partition: int, at_most: int) -> list[SignedSessionHead]:
    """Take sessions that changed since the partition's last checkpoint, and the hashes of their new events.

    A session with more than fits is taken up to there, and again with the next checkpoint.
    """
    spans = list(_limit_to_max_entries(await connection.fetch(_SELECT_CHANGED_HEADS, partition, at_most)))
    columns = [[row[name] for row, _ in spans] for name in ("tenant_id", "session_id", "logged_seq")]
    found = await connection.fetch(_SELECT_NEW_HASHES, *columns, [upto_seq for _, upto_seq in spans])
    hashes = {row["n"]: split_concatenated_leaves(row["hashes"]) for row in found}
    heads = [_signed_head_from_row(row, upto_seq, hashes.get(n, [])) for n, (row, upto_seq) in enumerate(spans, 1)]
    await connection.execute(_MARK_HEADS_SIGNED, *columns[:2], [head.seq for head in heads])
    return heads


def _limit_to_max_entries(dirty: Iterable[asyncpg.Record]) -> Iterable[tuple[asyncpg.Record, int]]:
    """The sessions that fit, each with the last event that does."""
    room = MAX_ENTRIES_PER_CHECKPOINT
    for row in dirty:
        upto_seq = min(row["seq"], row["logged_seq"] + room)
        if upto_seq > row["logged_seq"] or upto_seq == row["seq"]:
            room -= upto_seq - row["logged_seq"]
            yield row, upto_seq


def _signed_head_from_row(row: asyncpg.Record, upto_seq: int, entries: Sequence[bytes]) -> SignedSessionHead:
    seq, chain_hash = upto_seq, entries[-1] if entries else row["hash"]
    if len(entries) != upto_seq - row["logged_seq"] or (upto_seq == row["seq"] and chain_hash != row["hash"]):
        # Somebody changed the projection. What was chained is signed all the same; `audit verify` says what is wrong.
        seq, chain_hash, entries = row["seq"], row["hash"], [row["hash"]]
    logged_at = None if entries else row["log_index"]
    return SignedSessionHead(row["tenant_id"], row["session_id"], seq, chain_hash, entries, logged_at)


async def load_tree(connection: Connection, partition: int) -> MerkleTreeEdge:
    """The partition's tree as its newest checkpoint left it.

    Raises:
        RetryLater: a tile in PostgreSQL was removed or cut: without it the tree can't grow.
    """
    size = await connection.fetchval(_SELECT_TREE_SIZE, partition) or 0
    tiles = await read_tiles(connection, partition, edge_tiles(size))
    try:
        return tree_from_edge(size, tiles)
    except ValueError as error:
        raise RetryLater(
            f"the tree of partition {partition} can't grow: {error}. Restore audit.log_tiles and audit.checkpoints "
            "together from a backup"
        ) from error


async def upsert_tiles(connection: Connection, partition: int, tiles: dict[TilePlace, bytes]) -> None:
    """Write tiles that changed."""
    places = list(tiles)
    levels, numbers = [level for level, _ in places], [number for _, number in places]
    await connection.execute(_UPSERT_TILES, partition, levels, numbers, [tiles[place] for place in places])


async def load_tree_entries(pool: Pool, partition: int, first: int, end: int) -> bytes:
    """The entries of the partition's tree from `first` to below `end`, one after the other."""
    places = [(0, number) for number in range(first // TILE_WIDTH, -(-end // TILE_WIDTH))]
    async with pool.acquire() as connection:
        tiles = await read_tiles(connection, partition, places)
    whole = b"".join(tiles[place] for place in places)
    start = first // TILE_WIDTH * TILE_WIDTH
    return whole[(first - start) * HASH_BYTES : (end - start) * HASH_BYTES]


def append_lost_checkpoints_entries(tree: MerkleTreeEdge, lost: Sequence[CheckpointRecord]) -> dict[TilePlace, bytes]:
    """Append what checkpoints added that are lost from PostgreSQL, and return the tiles that changed.

    Others may have seen that tree, so it goes on from there. If the copies do not follow from what is left, nothing is
    appended: witnesses will refuse the tree.
    """
    known = [record for record in lost if record.tree_note]
    grown = MerkleTreeEdge(tree.size, {level: list(hashes) for level, hashes in tree.edge.items()})
    tiles: dict[TilePlace, bytes] = {}
    for record in known:
        tiles |= grown.append_entries(split_concatenated_leaves(record.tree_entries))
        head = decode_tree_head(decode_note(record.tree_note))
        if (grown.size, grown.root_hash()) != (head.size, head.root):
            log.error("log_tree_diverged", partition=record.partition, number=record.number, size=head.size)
            metrics.AUDIT_LOG_TREE_DIVERGED.labels(str(record.partition)).inc()
            return {}
    tree.size, tree.edge = grown.size, grown.edge
    return tiles
