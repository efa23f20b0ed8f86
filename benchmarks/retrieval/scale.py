"""Time per search while the knowledge base grows.

One manual has some 14,000 passages. Beyond that, new documents are put together from the manual's own paragraphs, so
that words keep their frequencies: twice the passages, twice the length of every posting list.
"""

import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from benchmarks.retrieval.manual import ManualPassage, Question
from flotilla.knowledge import KnowledgeBase, UploadedDocument
from flotilla.postgres import Pool

PASSAGES_PER_DOCUMENT = 200
TENANT = "scale"
COUNTED = 300
"""Questions that are timed; as many others are the first ones."""
PREPARING = 20
"""Searches after which PostgreSQL has the statement's plan and the client its connection."""


@dataclass(frozen=True)
class Timing:
    """One size: milliseconds per search."""

    passages: int
    first_ms: float
    """The median of the first searches after the documents came in: half of what they read is not in memory yet."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float
    """CPU time of PostgreSQL's backend per search: steadier than the others on a busy machine."""


async def grown(
    knowledge: KnowledgeBase, passages: list[ManualPassage], sizes: Sequence[int], seed: int = 7
) -> AsyncIterator[int]:
    """Adds documents, and stops at each of `sizes`."""
    draw = random.Random(seed)  # noqa: S311 - drawn alike in every run
    paragraphs = paragraphs_of(passages)
    count = number = 0
    for size in sizes:
        while count < size:
            wanted = min(PASSAGES_PER_DOCUMENT, size - count)
            added = await knowledge.add(TENANT, document_of(number, draw, paragraphs, wanted))
            count += added.passages
            number += 1
        yield count


def paragraphs_of(passages: Sequence[ManualPassage]) -> list[str]:
    """What new documents are put together from."""
    return [part for passage in passages for part in passage.piece.text.split("\n\n") if len(part) > 80]


def document_of(number: int, draw: random.Random, paragraphs: list[str], passages: int) -> UploadedDocument:
    """A document of so many passages."""
    sections = (f"## Part {n}\n\n{draw.choice(paragraphs)}\n\n{draw.choice(paragraphs)}" for n in range(passages))
    text = f"# Document {number}\n\n" + "\n\n".join(section[:1400] for section in sections)
    return UploadedDocument(uri=f"scale/{number}.md", content=text.encode())


async def timed(pool: Pool, knowledge: KnowledgeBase, questions: Sequence[Question], size: int) -> Timing:
    """Searches one after the other, each question once: the first ones, those of a knowledge base that comes into use,
    and then the ones that count. `pool` holds one connection."""
    queries = [question.query for question in questions]
    counted, first, others = queries[:COUNTED], queries[COUNTED : 2 * COUNTED], queries[2 * COUNTED :]
    for query in others[:PREPARING]:
        await knowledge.search(TENANT, query)
    first_times = await _search_all(knowledge, first)
    await _search_all(knowledge, others[PREPARING:])
    backend = await pool.fetchval("SELECT pg_backend_pid()")
    cpu_before = _cpu_ms(backend)
    times = await _search_all(knowledge, counted)
    cpu_ms = (_cpu_ms(backend) - cpu_before) / len(counted)
    cut = statistics.quantiles(times, n=100)
    return Timing(size, statistics.median(first_times), cut[49], cut[94], cut[98], cpu_ms)


async def _search_all(knowledge: KnowledgeBase, queries: Sequence[str]) -> list[float]:
    """Milliseconds of each."""
    times = []
    for query in queries:
        started = time.perf_counter()
        await knowledge.search(TENANT, query)
        times.append((time.perf_counter() - started) * 1000)
    return times


def _cpu_ms(pid: int) -> float:
    """Time on a CPU so far (Linux, Documentation/scheduler/sched-stats)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


async def settle(superuser_dsn: str) -> None:
    """Does what autovacuum would have done by now."""
    connection = await asyncpg.connect(superuser_dsn)
    try:
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()
