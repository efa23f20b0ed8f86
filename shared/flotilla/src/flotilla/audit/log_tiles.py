"""Reads the trees of the log from PostgreSQL: tiles, the newest signed note, proofs. They hold hashes only."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from flotilla.audit.tree import LeafRange, TilePlace, consistency_ranges, inclusion_ranges, range_root, tiles_for_ranges
from flotilla.postgres import Connection

_SELECT_TILES = "SELECT level, tile, hashes FROM audit.tiles_of_log($1, $2, $3)"
_SELECT_PROVABLE_TREE = "SELECT number, tree_size, tree_note, cosignatures FROM audit.provable_tree($1, $2)"
_SELECT_STAMP = "SELECT tree_size, tree_note, response, stamped_at FROM audit.stamp_of_log($1, $2)"
_SELECT_NEWEST_TREE_NOTE = "SELECT number, tree_size, tree_note FROM audit.newest_tree_note($1)"


@dataclass(frozen=True, slots=True)
class SignedTree:
    """A partition's tree as a checkpoint signed it."""

    partition: int
    number: int
    size: int
    note: bytes


@dataclass(frozen=True, slots=True)
class TreeStamp:
    """A time-stamp of a partition's signed tree."""

    size: int
    note: bytes
    """What was stamped, byte for byte."""
    response: bytes
    """The authority's answer, DER."""
    stamped_at: datetime


async def find_tree_stamp(connection: Connection, partition: int, at_least: int | None) -> TreeStamp | None:
    """The oldest stamp of a partition's tree with that many entries or more; without a number the newest."""
    row = await connection.fetchrow(_SELECT_STAMP, partition, at_least)
    return None if row is None else TreeStamp(row["tree_size"], row["tree_note"], row["response"], row["stamped_at"])


async def load_newest_tree(connection: Connection, partition: int) -> SignedTree | None:
    """The newest signed tree of a partition that Kafka has a copy of."""
    row = await connection.fetchrow(_SELECT_NEWEST_TREE_NOTE, partition)
    return None if row is None else SignedTree(partition, row["number"], row["tree_size"], row["tree_note"])


async def load_provable_tree(
    connection: Connection, partition: int, from_number: int | None = None
) -> SignedTree | None:
    """The signed tree with the most cosignatures, of a partition's checkpoint `from_number` or a later one."""
    row = await connection.fetchrow(_SELECT_PROVABLE_TREE, partition, from_number)
    if row is None:
        return None
    note = row["tree_note"] + "".join(f"{line}\n" for line in row["cosignatures"]).encode()
    return SignedTree(partition, row["number"], row["tree_size"], note)


async def read_tiles(
    connection: Connection, partition: int, places: Collection[TilePlace]
) -> Mapping[TilePlace, bytes]:
    """The stored tiles of a partition at these places, as far as there are any."""
    levels, numbers = [level for level, _ in places], [number for _, number in places]
    rows = await connection.fetch(_SELECT_TILES, partition, levels, numbers)
    return {(row["level"], row["tile"]): row["hashes"] for row in rows}


async def load_inclusion_proof(connection: Connection, partition: int, index: int, size: int) -> list[bytes]:
    """The hashes that lead from an entry to the root of the tree of `size` entries."""
    return await _range_roots(connection, partition, inclusion_ranges(index, size))


async def load_consistency_proof(connection: Connection, partition: int, old: int, size: int) -> list[bytes]:
    """The hashes which show that the tree of `size` entries begins with that of `old`."""
    return await _range_roots(connection, partition, consistency_ranges(old, size))


async def _range_roots(connection: Connection, partition: int, ranges: Sequence[LeafRange]) -> list[bytes]:
    tiles = await read_tiles(connection, partition, tiles_for_ranges(ranges))
    return [range_root(span, tiles) for span in ranges]
