"""Writes a document's passages, their posting lists and the statistics, in the caller's transaction."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from flotilla.knowledge.documents import Piece
from flotilla.knowledge.terms import LEAD_WEIGHT, TITLE_WEIGHT, compounds, weights_of, words
from flotilla.postgres import Connection

# How often each lexeme occurs in each text; it counts $5 times in a heading and $6 times in a defined term.
_LEXEMES = """
SELECT p.ordinal, t.lexeme,
       (SELECT sum(CASE w WHEN 'A' THEN $5 WHEN 'B' THEN $6 ELSE 1 END) FROM unnest(t.weights) AS w)::int AS frequency
FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS p (heading, leads, body, ordinal),
     unnest(setweight(to_tsvector($1::text::regconfig, p.heading), 'A')
            || setweight(to_tsvector($1::text::regconfig, p.leads), 'B')
            || to_tsvector($1::text::regconfig, p.body)) AS t
"""
# Waits for the tenant's other writers, and counts the passages in.
_COUNT = """
INSERT INTO flotilla.knowledge_bases (tenant_id, passages) VALUES ($1, greatest($2, 0))
ON CONFLICT (tenant_id) DO UPDATE SET passages = knowledge_bases.passages + $2
"""
_INSERT_PASSAGES = """
INSERT INTO flotilla.passages
    (tenant_id, document_id, ordinal, heading, start_offset, end_offset, body, terms, weights)
SELECT $1, $2, p.ordinal, p.heading, p.start_offset, p.end_offset, p.body, string_to_array(p.terms, ' '),
       string_to_array(p.weights, ' ')::smallint[]
FROM unnest($3::int[], $4::text[], $5::int[], $6::int[], $7::text[], $8::text[], $9::text[])
     AS p (ordinal, heading, start_offset, end_offset, body, terms, weights)
ORDER BY p.ordinal
"""
_INSERT_POSTINGS = """
INSERT INTO flotilla.passage_terms (tenant_id, term, weight, passage_no)
SELECT p.tenant_id, t.term, t.weight, p.passage_no
FROM flotilla.passages AS p, unnest(p.terms, p.weights) AS t (term, weight)
WHERE p.tenant_id = $1 AND p.document_id = $2
"""
# In order of terms, so that two writers never wait for each other in a ring.
_COUNT_TERMS = """
INSERT INTO flotilla.term_statistics (tenant_id, term, passages)
SELECT $1, t.term, t.passages FROM unnest($2::text[], $3::int[]) AS t (term, passages) ORDER BY t.term COLLATE "C"
ON CONFLICT (tenant_id, term) DO UPDATE SET passages = term_statistics.passages + excluded.passages
"""
_DELETE_POSTINGS = """
DELETE FROM flotilla.passage_terms AS t
USING flotilla.passages AS p, unnest(p.terms, p.weights) AS v (term, weight)
WHERE p.tenant_id = $1 AND p.document_id = $2
  AND t.tenant_id = $1 AND t.term = v.term AND t.weight = v.weight AND t.passage_no = p.passage_no
"""
_UNCOUNT_TERMS = """
UPDATE flotilla.term_statistics AS s SET passages = s.passages - gone.passages
FROM (SELECT v.term, count(*) AS passages FROM flotilla.passages AS p, unnest(p.terms) AS v (term)
      WHERE p.tenant_id = $1 AND p.document_id = $2 GROUP BY v.term) AS gone
WHERE s.tenant_id = $1 AND s.term = gone.term
"""
_DELETE_PASSAGES = "DELETE FROM flotilla.passages WHERE tenant_id = $1 AND document_id = $2"


@dataclass(frozen=True, slots=True)
class IndexedPiece:
    """A passage with the weight of each of its terms."""

    piece: Piece
    weights: dict[str, int]


async def weigh(connection: Connection, config: str, title: str, pieces: list[Piece]) -> list[IndexedPiece]:
    """The terms of each piece. Those of the document's title, of the headings above it and of the terms that it
    defines count more."""
    headings = [f"{title} {piece.heading}" for piece in pieces]
    rows = await connection.fetch(
        _LEXEMES,
        config,
        [words(heading) for heading in headings],
        [words(" ".join(piece.leads)) for piece in pieces],
        [words(piece.text) for piece in pieces],
        TITLE_WEIGHT,
        LEAD_WEIGHT,
    )
    frequencies: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for ordinal, lexeme, frequency in rows:
        frequencies[ordinal - 1].append((lexeme, frequency))
    return [
        IndexedPiece(piece, weights_of(frequencies[n], compounds(f"{headings[n]} {piece.text}")))
        for n, piece in enumerate(pieces)
    ]


async def lock(connection: Connection, tenant_id: str) -> None:
    """Waits until no other transaction writes this tenant's knowledge base."""
    await connection.execute(_COUNT, tenant_id, 0)


async def insert(connection: Connection, tenant_id: str, document_id: str, indexed: Sequence[IndexedPiece]) -> None:
    """Adds the passages of a document that has none."""
    await connection.execute(_COUNT, tenant_id, len(indexed))
    await connection.execute(
        _INSERT_PASSAGES,
        tenant_id,
        document_id,
        list(range(len(indexed))),
        [i.piece.heading for i in indexed],
        [i.piece.start for i in indexed],
        [i.piece.end for i in indexed],
        [i.piece.text for i in indexed],
        [" ".join(i.weights) for i in indexed],
        [" ".join(map(str, i.weights.values())) for i in indexed],
    )
    await connection.execute(_INSERT_POSTINGS, tenant_id, document_id)
    counts = Counter(term for i in indexed for term in i.weights)
    await connection.execute(_COUNT_TERMS, tenant_id, list(counts), list(counts.values()))


async def remove(connection: Connection, tenant_id: str, document_id: str, passages: int) -> None:
    """Takes a document's passages out again."""
    await connection.execute(_DELETE_POSTINGS, tenant_id, document_id)
    await connection.execute(_UNCOUNT_TERMS, tenant_id, document_id)
    await connection.execute(_DELETE_PASSAGES, tenant_id, document_id)
    await connection.execute(_COUNT, tenant_id, -passages)
