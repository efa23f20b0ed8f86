"""The tree of a log in tiles: the same hashes as RFC 6962, and proofs that prove nothing else."""

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla.audit.proof import merkle_inclusion_path, merkle_root, merkle_root_from_path
from flotilla.audit.tree import (
    MerkleTreeEdge,
    TilePlace,
    consistency_ranges,
    edge_tiles,
    inclusion_ranges,
    leaf_hash,
    range_root,
    tiles_for_ranges,
    tree_from_edge,
)
from tests.support.log_witness import is_consistent
from tests.support.properties import patient

SIZE = 66_000
"""Large enough for a tile of the third level."""
ENTRIES = [sha256(str(number).encode()).digest() for number in range(SIZE)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
SIZES = st.sampled_from([1, 2, 3, 255, 256, 257, 511, 512, 1000, 1025, 65_535, 65_536, 65_537, SIZE])


@pytest.fixture(scope="module")
def tiles() -> dict[TilePlace, bytes]:
    """All tiles of the tree."""
    return MerkleTreeEdge().append_entries(ENTRIES)


def roots(ranges: Sequence[tuple[int, int]], tiles: dict[TilePlace, bytes]) -> list[bytes]:
    needed = {place: tiles[place] for place in tiles_for_ranges(ranges)}
    return [range_root(span, needed) for span in ranges]


@patient
@given(st.lists(st.sampled_from([1, 2, 100, 255, 256, 257, 600]), max_size=6))
def test_a_tree_that_grows_in_steps_is_the_tree_of_all_entries(steps: list[int]) -> None:
    tree = MerkleTreeEdge()
    tiles: dict[TilePlace, bytes] = {}
    for step in steps:
        tree = tree_from_edge(tree.size, {place: tiles[place] for place in edge_tiles(tree.size)})
        tiles |= tree.append_entries(ENTRIES[tree.size : tree.size + step])
        assert tree.root_hash() == merkle_root(LEAVES[: tree.size])
    assert tiles == MerkleTreeEdge().append_entries(ENTRIES[: tree.size])


def test_the_root_is_that_of_the_reference_implementation() -> None:
    """The vectors of certificate-transparency's own tests, whose leaves are of other lengths."""
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    tree = MerkleTreeEdge()
    tree.append_entries(bytes.fromhex(leaf) for leaf in leaves)
    assert tree.root_hash().hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@patient
@given(SIZES, st.data())
def test_an_entry_is_proven_at_its_place_and_at_no_other(
    tiles: dict[TilePlace, bytes], size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    path = roots(inclusion_ranges(index, size), tiles)
    root = merkle_root(LEAVES[:size])
    assert path == merkle_inclusion_path(LEAVES[:size], index)
    assert merkle_root_from_path(LEAVES[index], index, size, path) == root
    other = data.draw(st.integers(0, size - 1))
    if other != index:
        assert merkle_root_from_path(LEAVES[index], other, size, path) != root
        assert merkle_root_from_path(LEAVES[other], index, size, path) != root
    assert merkle_root_from_path(LEAVES[index], index, size, [*path, root]) is None


@patient
@given(SIZES, SIZES, st.data())
def test_a_tree_is_shown_to_begin_with_an_earlier_one_and_with_no_other(
    tiles: dict[TilePlace, bytes], one: int, other: int, data: st.DataObject
) -> None:
    old, size = sorted((one, other))
    before, after = merkle_root(LEAVES[:old]), merkle_root(LEAVES[:size])
    path = roots(consistency_ranges(old, size), tiles)
    assert is_consistent(old, before, size, after, path)
    changed = [*LEAVES[:old]]
    at = data.draw(st.integers(0, old - 1))
    changed[at] = leaf_hash(b"changed")
    assert not is_consistent(old, merkle_root(changed), size, after, path)
    assert not is_consistent(old, before, size, after, [*path, after])
    if path:
        assert not is_consistent(old, before, size, after, path[:-1])
        assert not is_consistent(old, before, size, after, [path[0], *path])
    if old < size:
        assert not is_consistent(size, after, old, before, path), "a tree can't shrink"


def test_a_tile_that_is_short_is_no_tile(tiles: dict[TilePlace, bytes]) -> None:
    with pytest.raises(ValueError, match="tile 1 of level 0 has 10 hashes, not 88"):
        tree_from_edge(344, {(0, 1): tiles[0, 1][:320], (1, 0): tiles[1, 0]})
