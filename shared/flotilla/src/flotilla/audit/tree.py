"""The Merkle tree of a log, in tiles: hashing as in RFC 6962, layout as in https://c2sp.org/tlog-tiles.

A leaf is made from an entry: the 32 bytes of an event's chain hash. A tile of level 0 covers 256 entries, one of level
L + 1 the roots of 256 full tiles of level L. Standard library only, as all that a verifier needs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

from flotilla.audit.proof import HASH_BYTES, merkle_root, split_concatenated_leaves

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
MAX_TILE_LEVEL = 63 // TILE_HEIGHT
_LEAF, _NODE = b"\x00", b"\x01"

TilePlace: TypeAlias = tuple[int, int]
"""Level and number of a tile."""
LeafRange: TypeAlias = tuple[int, int]
"""Leaves from the first number to below the second."""


def leaf_hash(entry: bytes) -> bytes:
    """The leaf of an entry."""
    return sha256(_LEAF + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The node above two."""
    return sha256(_NODE + left + right).digest()


@dataclass(slots=True)
class MerkleTreeEdge:
    """The right edge of a tree: what has to be known of it to append, and to compute its root.

    Appending costs two hashes per entry, whatever the size.
    """

    size: int = 0
    edge: dict[int, list[bytes]] = field(default_factory=dict)
    """Per level the hashes of the newest tile, unless it is full: of level 0 the entries, their leaves are computed."""

    def append_entries(self, entries: Iterable[bytes]) -> dict[TilePlace, bytes]:
        """Append the entries, and return the tiles that changed, whole."""
        changed: dict[TilePlace, bytes] = {}
        touched: set[int] = set()
        for entry in entries:
            self._add_hash(0, self.size, entry, changed)
            self.size += 1
            touched.add(0)
        touched.update(level + 1 for level, _ in changed)
        for level in touched:
            if hashes := self.edge.get(level):
                changed[level, (self.size >> (TILE_HEIGHT * level)) // TILE_WIDTH] = b"".join(hashes)
        return changed

    def _add_hash(self, level: int, index: int, value: bytes, changed: dict[TilePlace, bytes]) -> None:
        hashes = self.edge.setdefault(level, [])
        hashes.append(value)
        if len(hashes) == TILE_WIDTH:
            number = index // TILE_WIDTH
            changed[level, number] = b"".join(hashes)
            self.edge[level] = []
            self._add_hash(level + 1, number, merkle_root(_node_hashes(level, hashes)), changed)

    def root_hash(self) -> bytes:
        """The root; of an empty tree, SHA-256 of nothing."""
        subtrees = [
            merkle_root(part)
            for level in sorted(self.edge, reverse=True)
            for part in _split_into_powers_of_two(_node_hashes(level, self.edge[level]))
        ]
        return _fold_roots(subtrees) if subtrees else sha256().digest()


def edge_tiles(size: int) -> list[TilePlace]:
    """The tiles that `tree_from_edge` needs."""
    widths = [(level, size >> (TILE_HEIGHT * level)) for level in range(MAX_TILE_LEVEL + 1)]
    return [(level, count // TILE_WIDTH) for level, count in widths if count % TILE_WIDTH]


def tree_from_edge(size: int, tiles: Mapping[TilePlace, bytes]) -> MerkleTreeEdge:
    """The tree of `size` leaves, from its tiles, which may hold more by now.

    Raises:
        ValueError: a tile is missing or too short.
    """
    tree = MerkleTreeEdge(size)
    for level, number in edge_tiles(size):
        width = (size >> (TILE_HEIGHT * level)) % TILE_WIDTH
        tree.edge[level] = _tile_hashes(tiles, (level, number), width)
    return tree


def inclusion_ranges(index: int, size: int) -> list[LeafRange]:
    """Whose roots lead from leaf `index` to the root of `size` leaves, lowest first (RFC 6962, section 2.1.1)."""
    low, high, ranges = 0, size, []
    while high - low > 1:
        middle = low + _largest_power_of_two_below(high - low)
        if index < middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low = middle
    return ranges[::-1]


def consistency_ranges(old: int, size: int) -> list[LeafRange]:
    """Whose roots show that the tree of `size` leaves begins with that of `old` (RFC 6962, section 2.1.2)."""
    if not 0 < old < size:
        return []
    low, high, is_whole, ranges = 0, size, True, []
    while old != high:
        middle = low + _largest_power_of_two_below(high - low)
        if old <= middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low, is_whole = middle, False
    if not is_whole:
        ranges.append((low, high))
    return ranges[::-1]


def tiles_for_ranges(ranges: Iterable[LeafRange]) -> set[TilePlace]:
    """The tiles from which `range_root` computes the roots of these ranges."""
    return {
        place
        for span in ranges
        for exponent, number in _perfect_subtrees_of(span)
        for place in [_tile_of_subtree(exponent, number)[0]]
    }


def range_root(span: LeafRange, tiles: Mapping[TilePlace, bytes]) -> bytes:
    """The root over a range that a proof names.

    Raises:
        ValueError: a tile is missing or too short.
    """
    roots = []
    for exponent, number in _perfect_subtrees_of(span):
        place, first, count = _tile_of_subtree(exponent, number)
        roots.append(merkle_root(_node_hashes(place[0], _tile_hashes(tiles, place, first + count)[first:])))
    return _fold_roots(roots)


def tile_nodes(level: int, stored: bytes, width: int) -> bytes:
    """The first `width` hashes of a stored tile as monitors read them."""
    return b"".join(_node_hashes(level, split_concatenated_leaves(stored)[:width]))


def entry_bundle(stored: bytes, width: int) -> bytes:
    """The first `width` entries of a stored tile of level 0 as monitors read them: each behind its length."""
    prefix = HASH_BYTES.to_bytes(2, "big")
    return b"".join(prefix + entry for entry in split_concatenated_leaves(stored)[:width])


def _largest_power_of_two_below(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _perfect_subtrees_of(span: LeafRange) -> list[tuple[int, int]]:
    """The perfect subtrees that make up a range, left to right: exponent of the number of leaves, and place."""
    low, high = span
    parts = []
    while low < high:
        exponent = (high - low).bit_length() - 1
        parts.append((exponent, low >> exponent))
        low += 1 << exponent
    return parts


def _tile_of_subtree(exponent: int, number: int) -> tuple[TilePlace, int, int]:
    """The tile that holds a perfect subtree, and which of its hashes the subtree covers: the first, and how many."""
    level, height = divmod(exponent, TILE_HEIGHT)
    tile, first = divmod(number << height, TILE_WIDTH)
    return (level, tile), first, 1 << height


def _tile_hashes(tiles: Mapping[TilePlace, bytes], place: TilePlace, width: int) -> list[bytes]:
    hashes = split_concatenated_leaves(tiles.get(place, b""))[:width]
    if len(hashes) < width or len(hashes[-1]) != HASH_BYTES:
        raise ValueError(f"tile {place[1]} of level {place[0]} has {len(hashes)} hashes, not {width}")
    return hashes


def _node_hashes(level: int, stored: Sequence[bytes]) -> list[bytes]:
    return [leaf_hash(entry) for entry in stored] if level == 0 else list(stored)


def _split_into_powers_of_two(hashes: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    """Cut the hashes into parts of powers of two, the largest first."""
    start = 0
    while start < len(hashes):
        count = 1 << ((len(hashes) - start).bit_length() - 1)
        yield hashes[start : start + count]
        start += count


def _fold_roots(roots: Sequence[bytes]) -> bytes:
    root = roots[-1]
    for left in reversed(roots[:-1]):
        root = node_hash(left, root)
    return root
