"""Time per search by words and meaning, in one large tenant and in many small ones beside it.

    python -m benchmarks.retrieval.skewed [--passages 1000,100000] [--tenants 1000] [--repeat 200]

Documents are put together from paragraphs of Git's manual. Vectors are drawn at random, 384 numbers each: no model is
timed, only the search.
"""

import argparse
import asyncio
import hashlib
import random
import statistics
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.retrieval.database import open_database
from benchmarks.retrieval.judged import read_questions
from benchmarks.retrieval.manual import passages_of
from benchmarks.retrieval.manuals import MANUALS
from benchmarks.retrieval.scale import TENANT, document_of, grown, paragraphs_of, settle
from flotilla.knowledge import KnowledgeBase
from flotilla.knowledge.embedding import PassageEmbedding
from flotilla.postgres import Pool
from flotilla_devstack import stack_for_tests

SMALL = 10
"""Passages of a small tenant."""
DIMENSIONS = 384
NEVER = asyncio.Event()


class RandomVectors:
    """The same vector for the same text, and one that has nothing to do with it."""

    name = "random@1"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector of length 1 for each text."""
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
        vector = np.random.default_rng(seed).standard_normal(DIMENSIONS)
        return (vector / np.linalg.norm(vector)).tolist()  # type: ignore[no-any-return]


async def _timed(label: str, knowledge: KnowledgeBase, tenants: Sequence[str], queries: Sequence[str]) -> None:
    """Search each question in a tenant, tenants in turn, and print milliseconds."""
    for warm in range(min(20, len(queries))):
        await knowledge.search(tenants[warm % len(tenants)], queries[warm])
    times = []
    for number, query in enumerate(queries):
        started = time.perf_counter()
        await knowledge.search(tenants[number % len(tenants)], query)
        times.append((time.perf_counter() - started) * 1000)
    cut = statistics.quantiles(times, n=100)
    print(f"  {label:<34} p50 {cut[49]:.1f} ms, p95 {cut[94]:.1f} ms")


async def _run(server_dsn: str, sizes: Sequence[int], tenants: int, repeat: int) -> None:
    passages = passages_of(MANUALS["git"].uploads())
    paragraphs, draw = paragraphs_of(passages), random.Random(3)  # noqa: S311 - drawn alike in every run
    asked = [one.text for half in ("tune", "report") for one in read_questions("git", half)]
    queries = [f"{asked[number % len(asked)]} {number}" for number in range(repeat)]
    async with open_database(server_dsn) as (database, pool):
        by_words, embedder = KnowledgeBase(pool), RandomVectors()
        by_both = KnowledgeBase(pool, embedder=embedder)
        small = [f"small-{number}" for number in range(tenants)]
        for number, tenant in enumerate(small):
            await by_words.add(tenant, document_of(number, draw, paragraphs, SMALL))
        started, before = time.perf_counter(), 0
        async for size in grown(by_words, passages, sizes):
            added = (size - before) / (time.perf_counter() - started)
            vectors = await _embedded(pool, embedder)
            await settle(database.superuser_dsn)
            print(
                f"{size} passages in one tenant, {SMALL} in each of {tenants}: {added:.0f} passages/s added, "
                f"{vectors:.0f} vectors/s stored"
            )
            for where, names in (("large tenant", [TENANT]), ("small tenants", small)):
                await _timed(f"{where}, by words", by_words, names, queries)
                await _timed(f"{where}, by words and meaning", by_both, names, queries)
            started, before = time.perf_counter(), size


async def _embedded(pool: Pool, embedder: RandomVectors) -> float:
    """Embed what is not embedded yet, and return the rate."""
    started = time.perf_counter()
    return await PassageEmbedding(pool, embedder).embed_new_passages(NEVER) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", default="1000,100000", help="sizes of the large tenant, ascending")
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=200, help="searches of each kind")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.passages.split(",")]
    with stack_for_tests(["postgres"]) as stack:
        asyncio.run(_run(stack.postgres_dsn("postgres"), sizes, arguments.tenants, arguments.repeat))


if __name__ == "__main__":
    main()
