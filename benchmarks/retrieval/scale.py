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
from flotilla.knowledge import KnowledgeBase, Ranking, Upload
from flotilla.postgres import Pool

PASSAGES_PER_DOCUMENT = 200
TENANT = "scale"


@dataclass(frozen=True)
class Timing:
    """One size: milliseconds per search, and what reading only some postings cost."""

    passages: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float
    """CPU time of PostgreSQL's backend per search: steadier than the others on a busy machine."""
    kept: float
    """Score of the five that were found, by that of the best five."""


async def grown(
    knowledge: KnowledgeBase, passages: list[ManualPassage], sizes: Sequence[int], seed: int = 7
) -> AsyncIterator[int]:
    """Adds documents, and stops at each of `sizes`."""
    draw = random.Random(seed)  # noqa: S311 - drawn alike in every run
    paragraphs = [part for passage in passages for part in passage.piece.text.split("\n\n") if len(part) > 80]
    count = number = 0
    for size in sizes:
        while count < size:
            wanted = min(PASSAGES_PER_DOCUMENT, size - count)
            added = await knowledge.add(TENANT, _document(number, draw, paragraphs, wanted))
            count += added.passages
            number += 1
        yield count


def _document(number: int, draw: random.Random, paragraphs: list[str], passages: int) -> Upload:
    sections = (f"## Part {n}\n\n{draw.choice(paragraphs)}\n\n{draw.choice(paragraphs)}" for n in range(passages))
    text = f"# Document {number}\n\n" + "\n\n".join(section[:1400] for section in sections)
    return Upload(uri=f"scale/{number}.md", content=text.encode())


async def timed(
    pool: Pool, knowledge: KnowledgeBase, whole: KnowledgeBase, queries: Sequence[Question], size: int
) -> Timing:
    """Searches one after the other, each once, after a warm-up. `pool` holds one connection."""
    backend = await pool.fetchval("SELECT pg_backend_pid()")
    for question in queries[:20]:
        await knowledge.search(TENANT, question.query)
    times, scores = [], []
    cpu_before = _cpu_ms(backend)
    for question in queries:
        started = time.perf_counter()
        found = await knowledge.search(TENANT, question.query)
        times.append((time.perf_counter() - started) * 1000)
        scores.append(sum(passage.source.score for passage in found))
    cpu_ms = (_cpu_ms(backend) - cpu_before) / len(queries)
    best = [sum(p.source.score for p in await whole.search(TENANT, q.query)) for q in queries[::5]]
    cut = statistics.quantiles(times, n=100)
    return Timing(size, cut[49], cut[94], cut[98], cpu_ms, sum(scores[::5]) / sum(best))


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


WHOLE = Ranking(postings=1_000_000_000, candidates=1_000_000)
"""Reads every posting and scores every candidate: the exact ranking."""
