"""Posting lists as PostgreSQL keeps them, and BM25 over them.

Every passage of a tenant has a slot, in the order in which passages were indexed. A row of `flotilla.postings` holds
the passages of one block of slots that have one term. A search reads the whole lists of its terms, so its ranking is
exact.
"""

import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flotilla.knowledge.analysis import AnalysedPassage

BLOCK_SLOTS = 1024
"""With a posting of 6 bytes, a full block fits a page of PostgreSQL."""
POSTING = np.dtype([("offset", "<u2"), ("count", "<u2"), ("length", "<u2")])
K1 = 1.2
B = 0.75
MAX_SPARSENESS = 16
"""Slots that may be touched for each posting before they are sorted instead."""
_PACKED = struct.Struct("<HHH")
_MOST = np.iinfo(np.uint16).max

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Postings: TypeAlias = npt.NDArray[Any]
Blocks: TypeAlias = dict[tuple[str, int], bytes]


@dataclass(frozen=True, slots=True)
class PostingList:
    """The passages with one term: their slots, how often each has it, and its length in words."""

    slots: Integers
    counts: Floats
    lengths: Floats


class SlotRanges:
    """Ranges of slots, in order and apart from each other, by their first slot and their length."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._starts = np.array([start for start, _ in ranges], np.int64)
        self._ends = self._starts + np.array([length for _, length in ranges], np.int64)

    def postings_outside(self, found: PostingList) -> PostingList:
        """Return the postings that are in none of the ranges."""
        if not self._starts.size:
            return found
        at = np.searchsorted(self._starts, found.slots, side="right") - 1
        kept = (at < 0) | (found.slots >= self._ends[at])
        return PostingList(found.slots[kept], found.counts[kept], found.lengths[kept])


@dataclass(frozen=True, slots=True)
class ScoredSlots:
    """Slots, best first, and their scores."""

    slots: list[int]
    scores: list[float]


def pack(first_slot: int, passages: Sequence[AnalysedPassage]) -> Blocks:
    """Return the postings of consecutive passages, the first of which has `first_slot`, by term and block."""
    blocks: dict[tuple[str, int], bytearray] = defaultdict(bytearray)
    for slot, passage in enumerate(passages, first_slot):
        block, offset = divmod(slot, BLOCK_SLOTS)
        length = min(passage.term_count, _MOST)
        for term, count in passage.counts.items():
            blocks[term, block] += _PACKED.pack(offset, min(count, _MOST), length)
    return {key: bytes(packed) for key, packed in blocks.items()}


def postings_without_slots(block: int, packed: bytes, slots: range) -> bytes:
    """Return the postings of `block` less those of `slots`."""
    postings = np.frombuffer(packed, POSTING)
    place = block * BLOCK_SLOTS + postings["offset"].astype(np.int64)
    return postings[(place < slots.start) | (place >= slots.stop)].tobytes()


def decode_posting_blocks(rows: Sequence[tuple[int, bytes]]) -> PostingList:
    """Return the list that the blocks of one or more terms make."""
    postings: Postings = np.frombuffer(b"".join(packed for _, packed in rows), POSTING)
    sizes = [len(packed) // POSTING.itemsize for _, packed in rows]
    starts = np.repeat(np.array([block for block, _ in rows], np.int64) * BLOCK_SLOTS, sizes)
    return PostingList(starts + postings["offset"], postings["count"].astype(float), postings["length"].astype(float))


def idf(passages: int, holding: int) -> float:
    """Return the weight of a term that `holding` of `passages` have; like Lucene's, it is never negative."""
    return float(np.log1p((passages - holding + 0.5) / (holding + 0.5)))


def best(weighted: Sequence[tuple[float, PostingList]], mean_length: float, most: int) -> ScoredSlots:
    """Return the `most` slots with the highest BM25 score, ties by slot; fewer where fewer passages have a term.
    `weighted` is at least one list, each with the idf of its term."""
    slots = np.concatenate([found.slots for _, found in weighted])
    weights = np.concatenate([weight * _saturated(found, mean_length) for weight, found in weighted])
    places, totals = _summed(slots, weights)
    if len(totals) > most:
        least = np.partition(totals, len(totals) - most)[len(totals) - most]
        kept = totals >= least
        places, totals = places[kept], totals[kept]
    order = np.lexsort((places, -totals))[:most]
    return ScoredSlots(places[order].tolist(), totals[order].tolist())


def _saturated(found: PostingList, mean_length: float) -> Floats:
    normal = K1 * (1 - B + B * found.lengths / mean_length)
    return found.counts * (K1 + 1) / (found.counts + normal)


def _summed(slots: Integers, weights: Floats) -> tuple[Integers, Floats]:
    """Each slot once, with the sum of its weights."""
    first, last = int(slots.min()), int(slots.max())
    if last - first < MAX_SPARSENESS * len(slots):
        totals = np.bincount(slots - first, weights).astype(float)
        places = np.flatnonzero(totals).astype(np.int64)
        return places + first, totals[places]
    places, inverse = np.unique(slots, return_inverse=True)
    return places, np.bincount(inverse, weights).astype(float)


def blocks_by_term(rows: Iterable[tuple[str, int, bytes]]) -> dict[str, list[tuple[int, bytes]]]:
    """Return the blocks of each term."""
    blocks: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    for term, block, packed in rows:
        blocks[term].append((block, packed))
    return blocks
