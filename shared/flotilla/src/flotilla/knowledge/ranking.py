"""BM25 over posting lists, cut short: the time of a search does not grow with the knowledge base.

Each term's list is read from its heaviest posting down, `depth` postings at most. A passage's score is then known up
to what the unread tails could add, at most the weight at the cut. Whatever can't reach the k-th best is dropped, and
the others get their exact score from their own term vector (Fagin's threshold algorithm with both kinds of access:
Fagin, Lotem and Naor, "Optimal aggregation algorithms for middleware", 2003). A passage that is in no list's head is
not found; benchmarks/retrieval measures how often that changes the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from flotilla.knowledge.terms import WEIGHT_UNIT, compounds, words
from flotilla.postgres import Connection

MAX_QUERY_TERMS = 24
"""The rarest ones of a longer query."""
MAX_CANDIDATES = 400
"""How many passages get an exact score."""

_SEARCH = """
WITH wanted AS MATERIALIZED (
    SELECT q.term, ln(1 + (b.passages - n.passages + 0.5) / (n.passages + 0.5)) AS idf, n.passages, q.is_word
    FROM (SELECT lexeme AS term, true AS is_word FROM unnest(to_tsvector($2::text::regconfig, $3))
          UNION SELECT v.term, false FROM unnest($4::text[]) AS v (term)) AS q
    CROSS JOIN (SELECT passages::float8 FROM flotilla.knowledge_bases WHERE tenant_id = $1 AND passages > 0) AS b
    CROSS JOIN LATERAL (SELECT coalesce((SELECT s.passages FROM flotilla.term_statistics AS s
                                         WHERE s.tenant_id = $1 AND s.term = q.term), 0)::float8 AS passages) AS n
    ORDER BY idf DESC, q.term LIMIT $7
), head AS MATERIALIZED (
    SELECT w.term, w.idf, w.passages, p.passage_no, p.weight
    FROM wanted AS w CROSS JOIN LATERAL (
        SELECT t.passage_no, t.weight FROM flotilla.passage_terms AS t
        WHERE t.tenant_id = $1 AND t.term = w.term ORDER BY t.weight DESC, t.passage_no DESC LIMIT $5) AS p
), tail AS MATERIALIZED (
    SELECT term, CASE WHEN count(*) < min(passages) THEN min(idf * weight) ELSE 0 END AS bound FROM head GROUP BY term
), partial AS MATERIALIZED (
    SELECT h.passage_no, sum(h.idf * h.weight) AS lower, sum(h.idf * h.weight - t.bound) AS surplus
    FROM head AS h JOIN tail AS t USING (term) GROUP BY h.passage_no
), candidate AS MATERIALIZED (
    SELECT passage_no FROM partial
    WHERE surplus + (SELECT sum(bound) FROM tail) >= coalesce(
        (SELECT lower FROM partial ORDER BY lower DESC OFFSET $6 - 1 LIMIT 1), 0)
    ORDER BY surplus DESC, passage_no LIMIT $8
), best AS (
    SELECT c.passage_no, sum(w.idf * v.weight) AS score
    FROM candidate AS c
    JOIN flotilla.passages AS p ON p.tenant_id = $1 AND p.passage_no = c.passage_no
    CROSS JOIN LATERAL unnest(p.terms, p.weights) AS v (term, weight)
    JOIN wanted AS w ON w.term = v.term
    GROUP BY c.passage_no ORDER BY score DESC, c.passage_no LIMIT $6
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
    """How a search reads: the text search configuration, and postings read per term."""

    config: str = "english"
    depth: int = 1000


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
        ranking.depth,
        k,
        MAX_QUERY_TERMS,
        MAX_CANDIDATES,
        float(WEIGHT_UNIT),
    )
