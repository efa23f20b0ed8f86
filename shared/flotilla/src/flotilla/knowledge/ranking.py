"""BM25 over posting lists, cut short: the time of a search hardly grows with the knowledge base.

A search reads a fixed number of postings. Lists that are shorter than an even share are read whole, so the rare terms,
which decide the most, always are; the others share the rest and are read from their heaviest posting down. A passage's
score is then known up to what the unread tails could add, at most the weight at each cut. Whatever can't reach the k-th
best is dropped, and of the others the likeliest get their exact score from their own term vector (after Fagin's
threshold algorithm with both kinds of access: Fagin, Lotem and Naor, "Optimal aggregation algorithms for middleware",
2003). `benchmarks/retrieval` measures how often reading everything would have given another answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from flotilla.knowledge.terms import WEIGHT_UNIT, compounds, words
from flotilla.postgres import Connection

MAX_QUERY_TERMS = 24
"""The rarest ones of a longer query."""

# $5 postings are read, $8 candidates scored, for the best $6.
_SEARCH = """
WITH asked AS MATERIALIZED (
    SELECT q.term, q.is_word, f.passages, b.passages AS whole,
           ln(1 + (b.passages - f.passages + 0.5) / (f.passages + 0.5)) AS idf
    FROM (SELECT lexeme AS term, true AS is_word FROM unnest(to_tsvector($2::text::regconfig, $3))
          UNION ALL SELECT v.term, false FROM unnest($4::text[]) AS v (term)) AS q
    CROSS JOIN (SELECT passages::float8 FROM flotilla.knowledge_bases WHERE tenant_id = $1 AND passages > 0) AS b
    LEFT JOIN flotilla.term_statistics AS s ON s.tenant_id = $1 AND s.term = q.term
    CROSS JOIN LATERAL (SELECT coalesce(s.passages, 0)::float8 AS passages) AS f
    ORDER BY f.passages = 0, idf DESC, q.term LIMIT $7
), wanted AS MATERIALIZED (
    SELECT row_number() OVER ()::int AS n, a.*, s.depth
    FROM asked AS a CROSS JOIN (
        SELECT ceil(($5 - coalesce(sum(passages) FILTER (WHERE passages <= e.even), 0))
                    / greatest(count(*) FILTER (WHERE passages > e.even), 1))::bigint AS depth
        FROM asked CROSS JOIN (SELECT $5::float8 / nullif(count(*), 0) AS even FROM asked) AS e) AS s
), head AS MATERIALIZED (
    SELECT w.n, w.idf, p.passage_no, p.weight
    FROM wanted AS w CROSS JOIN LATERAL (
        SELECT t.passage_no, t.weight FROM flotilla.passage_terms AS t
        WHERE t.tenant_id = $1 AND t.term = w.term ORDER BY t.weight DESC, t.passage_no DESC LIMIT w.depth) AS p
), tail AS MATERIALIZED (
    SELECT w.n, w.idf * h.weight AS bound,
           w.idf * h.weight * (w.passages - w.depth) / (w.whole - w.depth) AS expected
    FROM wanted AS w JOIN (SELECT n, min(weight) AS weight FROM head GROUP BY n) AS h USING (n)
    WHERE w.passages > w.depth
), partial AS MATERIALIZED (
    SELECT h.passage_no, sum(h.idf * h.weight) AS lower, sum(h.idf * h.weight - coalesce(t.bound, 0)) AS surplus,
        sum(h.idf * h.weight - coalesce(t.expected, 0)) AS likely
    FROM head AS h LEFT JOIN tail AS t USING (n) GROUP BY h.passage_no
), candidate AS MATERIALIZED (
    SELECT passage_no FROM partial
    WHERE surplus + coalesce((SELECT sum(bound) FROM tail), 0) >= coalesce(
        (SELECT lower FROM partial ORDER BY lower DESC OFFSET $6 - 1 LIMIT 1), 0)
    ORDER BY likely DESC, passage_no LIMIT $8
), best AS (
    SELECT c.passage_no, (SELECT sum(w.idf * p.weights[array_position(p.terms, w.term)]) FROM wanted AS w) AS score
    FROM candidate AS c JOIN flotilla.passages AS p ON p.tenant_id = $1 AND p.passage_no = c.passage_no
    ORDER BY score DESC, c.passage_no LIMIT $6
)
SELECT best.passage_no, p.document_id, d.uri, d.title, p.heading, p.start_offset, p.end_offset, p.body,
       best.score / ($9 * (SELECT sum(idf) FROM wanted WHERE is_word OR passages > 0)) AS score
FROM best
JOIN flotilla.passages AS p ON p.tenant_id = $1 AND p.passage_no = best.passage_no
JOIN flotilla.documents AS d ON d.tenant_id = $1 AND d.document_id = p.document_id
ORDER BY best.score DESC, best.passage_no
"""


@dataclass(frozen=True, slots=True)
class Ranking:
    """How a search reads."""

    config: str = "english"
    """The text search configuration; documents must have been added with the same."""
    postings: int = 2000
    """Postings that one search reads."""
    candidates: int = 100
    """Passages that get an exact score."""


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
