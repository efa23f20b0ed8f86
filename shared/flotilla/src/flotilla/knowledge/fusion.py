"""One ranking of those by words and by meaning, in which the passages of a document speak for each other.

Reciprocal rank fusion (Cormack, Clarke and Buettcher, 2009): a passage counts by its places. What else of its document
is in the rankings counts beside it, each further passage half as much: a manual's page about a thing has more to say of
it than one that mentions it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
"""A passage with its document and `score`."""

FUSION_K = 10
"""How much the first places count over later ones."""
CORROBORATION = 0.2
"""What the next best passage of a document counts beside one of it."""
DECAY = 0.5
"""What each further one counts beside the one before it."""


def fuse_rankings(*rankings: Sequence[Row]) -> list[Row]:
    """Return each row of the rankings once, best first. A row's score is the best that it has."""
    places: dict[int, float] = defaultdict(float)
    rows: dict[int, dict[str, Any]] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            number = row["passage_no"]
            places[number] += 1 / (FUSION_K + rank)
            known = rows.setdefault(number, dict(row))
            known |= {name: row[name] for name in ("by_words", "by_meaning") if name in row}
            known["score"] = max(known["score"], row["score"])
    ordered = sorted(rows, key=lambda number: (-places[number], number))
    said = _said_besides([(rows[number]["document_id"], places[number]) for number in ordered])
    return [
        rows[number]
        for number in sorted(ordered, key=lambda number: -places[number] - said[rows[number]["document_id"]])
    ]


def _said_besides(ordered: Sequence[tuple[str, float]]) -> dict[str, float]:
    """What the passages of each document but its best one count, of all passages, best first."""
    said: dict[str, float] = {}
    weights: dict[str, float] = {}
    for document_id, place in ordered:
        weight = weights.get(document_id, 0.0)
        said[document_id] = said.get(document_id, 0.0) + weight * place
        weights[document_id] = weight * DECAY or CORROBORATION
    return said
