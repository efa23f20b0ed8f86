"""Passages by meaning."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import structlog

from flotilla.contracts.errors import RetryLater
from flotilla.knowledge.embedding import SEARCH_TIMEOUT_S, as_halfvec, scaled_cosine
from flotilla.knowledge.fusion import Row
from flotilla.knowledge.vector_store import VectorStore
from flotilla.postgres import Connection

_SELECT_SERVING_KNOWLEDGE_BASES = (
    "SELECT passages FROM flotilla.knowledge_bases WHERE tenant_id = $1 AND embedded_by = $2"
)
MAX_COMPARED_NUMBERS = 4_000_000
"""Of a tenant whose vectors have no more numbers, all are compared: some 20 ms."""
_IN_THE_GRAPH = "distance"
_ONE_BY_ONE = "distance + 0"
"""An order that no index has, whatever the planner's statistics say of the tenant."""
# Of many passages, the graph's scan goes on until enough are the tenant's. One that has seen other tenants' numbers has
# no use for a plan that was made for them.
_SCAN = """
SELECT set_config('hnsw.iterative_scan', 'strict_order', true),
       set_config('plan_cache_mode', 'force_custom_plan', true)
"""
_SELECT_NEAREST_PASSAGE_EMBEDDINGS = """
SELECT p.passage_no, p.document_id, d.uri, d.title, p.heading, p.start_offset, p.end_offset, p.place, p.body,
       1 - e.distance AS score
FROM (
    SELECT passage_no, distance FROM (
        SELECT passage_no, embedding::halfvec({0}) <=> $3::text::halfvec({0}) AS distance
        FROM flotilla.passage_embeddings
        WHERE tenant_id = $1 AND model = $2 AND vector_dims(embedding) = {0}
            AND passage_no NOT IN (SELECT flotilla.passages_left_out($5))
    ) AS readable ORDER BY {1} LIMIT $4
) AS e
JOIN flotilla.passages AS p ON p.tenant_id = $1 AND p.passage_no = e.passage_no
JOIN flotilla.documents AS d ON d.tenant_id = $1 AND d.document_id = p.document_id
ORDER BY e.distance, p.passage_no
"""


# Row security leaves out what the caller may not read; what was removed is not there.
_SELECT_PASSAGES_LEFT_OUT = """
SELECT p.passage_no, p.document_id, d.uri, d.title, p.heading, p.start_offset, p.end_offset, p.place, p.body, n.score
FROM unnest($2::bigint[], $3::float8[]) WITH ORDINALITY AS n (passage_no, score, rank)
JOIN flotilla.passages AS p ON p.tenant_id = $1 AND p.passage_no = n.passage_no
JOIN flotilla.documents AS d ON d.tenant_id = $1 AND d.document_id = p.document_id
WHERE p.passage_no NOT IN (SELECT flotilla.passages_left_out($4))
ORDER BY n.rank LIMIT $5
"""
WIDER = 4
"""How many times more a store is asked for while too little of what it found may be read."""
MAX_WIDE = 20_000
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EmbeddedQuestion:
    """A question's vector, and the index of vectors that it is compared with."""

    index: str
    vector: Sequence[float]
    store: VectorStore | None = None
    """Where the index is; None: in PostgreSQL."""
    unrelated_cosine: float = 0.0
    """The model's cosine of texts that have nothing to do with each other."""


async def nearest_passages(
    connection: Connection, tenant_id: str, asked: EmbeddedQuestion, most: int, session_id: str | None = None
) -> Sequence[Row]:
    """Return the `most` passages that mean what is asked most nearly, of attachments those of `session_id` only; none
    while the tenant's passages are not all embedded by that model."""
    passages = await connection.fetchval(_SELECT_SERVING_KNOWLEDGE_BASES, tenant_id, asked.index)
    if passages is None:
        return []
    if asked.store:
        rows = await _nearest_in(asked.store, asked, connection, _Readable(tenant_id, session_id, most))
    else:
        rows = await _nearest_here(asked, connection, _Readable(tenant_id, session_id, most), passages)
    scores = [scaled_cosine(row["score"], asked.unrelated_cosine) for row in rows]
    return [{**row, "score": score, "by_meaning": score} for row, score in zip(rows, scores, strict=True)]


@dataclass(frozen=True, slots=True)
class _Readable:
    """Whose passages are read, with the attachments of one session, and how many at most."""

    tenant_id: str
    session_id: str | None
    most: int


async def _nearest_here(
    asked: EmbeddedQuestion, connection: Connection, wanted: _Readable, passages: int
) -> list[asyncpg.Record]:
    """What is nearest in PostgreSQL. The graph has all tenants' passages, and a scan of it ends after 20,000 of them:
    where that found too little of this tenant that may be read, its passages are compared one by one."""
    await connection.execute(_SCAN)
    few = passages * len(asked.vector) <= MAX_COMPARED_NUMBERS
    values = (wanted.tenant_id, asked.index, as_halfvec(asked.vector), wanted.most, wanted.session_id)
    rows: list[asyncpg.Record] = []
    for order in (_ONE_BY_ONE,) if few else (_IN_THE_GRAPH, _ONE_BY_ONE):
        rows = await connection.fetch(_SELECT_NEAREST_PASSAGE_EMBEDDINGS.format(len(asked.vector), order), *values)
        if len(rows) == wanted.most:
            break
    return rows


async def _nearest_in(
    store: VectorStore, asked: EmbeddedQuestion, connection: Connection, wanted: _Readable
) -> list[asyncpg.Record]:
    """What a store finds in time, as far as PostgreSQL lets the caller read it; nothing while the store is away."""
    wide, rows = wanted.most, list[asyncpg.Record]()
    until = asyncio.get_running_loop().time() + SEARCH_TIMEOUT_S  # of all questions: a connection is held meanwhile
    while True:
        try:
            async with asyncio.timeout_at(until):
                near = await store.find_nearest(wanted.tenant_id, asked.index, asked.vector, wide)
        except (RetryLater, TimeoutError) as error:
            log.warning("vector_store_away", error=str(error) or type(error).__name__)
            return rows
        scores = dict(near[:wide])
        rows = await connection.fetch(
            _SELECT_PASSAGES_LEFT_OUT,
            wanted.tenant_id,
            list(scores),
            list(scores.values()),
            wanted.session_id,
            wanted.most,
        )
        if len(rows) == wanted.most or len(near) < wide or wide >= MAX_WIDE:
            return rows
        wide *= WIDER
