"""BM25 over posting lists, cut short: the time of a search hardly grows with the knowledge base.

A search reads a fixed number of postings. Each term has a share of them by the square of its idf, since the rare terms
decide the most. Lists that are shorter than their share are read whole; the others split what is left in the same
proportion, and are read from their heaviest posting down. Of a passage that was not met in such a list it is only known
that it weighs less there than the last one read, which says much where that one is heavy; it is taken to weigh half as
much. The passages that seem best that way then get their exact score from their own term vector (sorted access, then
random access: after Fagin, Lotem and Naor, "Optimal aggregation algorithms for middleware", 2003). While no list is cut
the ranking is exact; `benchmarks/retrieval` measures what the cut costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from flotilla.knowledge.terms import WEIGHT_UNIT, compounds, words
from flotilla.postgres import Connection

MAX_QUERY_TERMS = 24
"""The rarest ones of a longer query."""

# $5 postings are read, $8 candidates scored, for the best $6. Candidates are put in order as if all those that were not
# met in a list had `unread` there; so what a posting gains is its weight over that.
_SEARCH = """
WITH asked AS MATERIALIZED (
    SELECT q.term, q.is_word, f.passages,
           ln(1 + (b.passages - f.passages + 0.5) / (f.passages + 0.5)) AS idf
    FROM (SELECT lexeme AS term, true AS is_word FROM unnest(to_tsvector($2::text::regconfig, $3))
          UNION ALL SELECT v.term, false FROM unnest($4::text[]) AS v (term)) AS q
    CROSS JOIN (SELECT passages::float8 FROM flotilla.knowledge_bases WHERE tenant_id = $1 AND passages > 0) AS b
    LEFT JOIN flotilla.term_statistics AS s ON s.tenant_id = $1 AND s.term = q.term
    CROSS JOIN LATERAL (SELECT coalesce(s.passages, 0)::float8 AS passages) AS f
    ORDER BY f.passages = 0, idf DESC, q.term LIMIT $7
), shared AS MATERIALIZED (
    SELECT a.*, $5 * a.idf ^ 2 / sum(a.idf ^ 2) OVER () AS share FROM asked AS a
), wanted AS MATERIALIZED (
    SELECT s.*, d.depth, CASE WHEN s.passages > d.depth THEN (
        SELECT t.weight FROM flotilla.passage_terms AS t WHERE t.tenant_id = $1 AND t.term = s.term
        ORDER BY t.weight DESC, t.passage_no DESC OFFSET d.depth - 1 LIMIT 1) / 2.0::float8 ELSE 0 END AS unread
    FROM shared AS s CROSS JOIN (
        SELECT $5 - coalesce(sum(passages) FILTER (WHERE passages <= share), 0) AS postings,
               sum(share) FILTER (WHERE passages > share) AS shares
        FROM shared) AS cut
    CROSS JOIN LATERAL (SELECT ceil(greatest(s.share, s.share * cut.postings / cut.shares))::bigint AS depth) AS d
), candidate AS MATERIALIZED (
    SELECT h.passage_no FROM wanted AS w CROSS JOIN LATERAL (
        SELECT t.passage_no, t.weight FROM flotilla.passage_terms AS t
        WHERE t.tenant_id = $1 AND t.term = w.term ORDER BY t.weight DESC, t.passage_no DESC LIMIT w.depth) AS h
    GROUP BY h.passage_no ORDER BY sum(w.idf * (h.weight - w.unread)) DESC, h.passage_no
    LIMIT CASE WHEN (SELECT bool_or(passages > depth) FROM wanted) THEN greatest($8::bigint, $6) ELSE $6 END
), best AS (
    SELECT p.passage_no, p.document_id, p.heading, p.start_offset, p.end_offset, p.body,
           (SELECT sum(w.idf * p.weights[array_position(p.terms, w.term)]) FROM wanted AS w) AS score
    FROM candidate AS c JOIN flotilla.passages AS p ON p.tenant_id = $1 AND p.passage_no = c.passage_no
    ORDER BY score DESC, p.passage_no LIMIT $6
)
SELECT b.passage_no, b.document_id, d.uri, d.title, b.heading, b.start_offset, b.end_offset, b.body,
       b.score / ($9 * (SELECT sum(idf) FROM wanted WHERE is_word OR passages > 0)) AS score
FROM best AS b JOIN flotilla.documents AS d ON d.tenant_id = $1 AND d.document_id = b.document_id
ORDER BY b.score DESC, b.passage_no
"""


@dataclass(frozen=True, slots=True)
class Ranking:
    """How a search reads."""

    config: str = "english"
    """The text search configuration; documents must have been added with the same."""
    postings: int = 500
    """Postings that one search reads. More of them find a little more for long questions in large knowledge bases, at
    0.35 µs each."""
    candidates: int = 25
    """Passages that get an exact score where not every posting was read. Each is somewhere else in the table: 6 µs at
    1,000 passages, 8 µs at 100,000, of which half is waiting for memory. Narrower rows hardly change that."""


async def best_passages(
    connection: Connection, tenant_id: str, query: str, k: int, ranking: Ranking
) -> Sequence[asyncpg.Record]:
    """At most `k` rows, best first. `score` is the share of the query's weight that the passage holds: about 1 when
    every term occurs once in a passage of normal length, at most 2.2."""
    return await connection.fetch(
        _SEARCH,
        tenant_id,
        ranking.config,
        words(query),
        sorted(set(compounds(query))),
        ranking.postings,
        k,
        MAX_QUERY_TERMS,
        ranking.candidates,
        float(WEIGHT_UNIT),
    )
