"""Retrieval on a real manual: recall@5 beside bm25s on the same passages, and time per search as it grows.

python -m benchmarks.retrieval [--manual DIR] [--questions N] [--sizes 1000,10000,100000]
"""

import argparse
import asyncio
import statistics
import time
from pathlib import Path

from benchmarks.retrieval.database import open_database
from benchmarks.retrieval.manual import (
    ManualPassage,
    Question,
    find_manual,
    passages_of,
    questions,
    uploads,
)
from benchmarks.retrieval.peers import Bm25s, passage_recall, section_recall
from benchmarks.retrieval.scale import grown, settle, timed
from flotilla.knowledge import KnowledgeBase, UploadedDocument
from flotilla.postgres import Pool
from flotilla_devstack import stack_for_tests
from tests.support.postgres import Database

TENANT = "manual"


async def _quality(
    database: Database, pool: Pool, pages: list[UploadedDocument], passages: list[ManualPassage], asked: list[Question]
) -> None:
    knowledge = KnowledgeBase(pool)
    started = time.perf_counter()
    for page in pages:
        await knowledge.add(TENANT, page)
    rate = len(passages) / (time.perf_counter() - started)
    print(f"{len(pages)} pages, {len(passages)} passages added, {rate:.0f} passages/s; {len(asked)} questions")
    await settle(database.superuser_dsn)
    peer = Bm25s(passages)
    place = {(p.uri, p.piece.start): p for p in passages}
    ours, theirs = [], []
    for question in asked:  # one after the other, so that both see the same machine
        theirs.append(peer.search(question.query))
        found = await knowledge.search(TENANT, question.query)
        ours.append([place[p.source.uri, p.source.start] for p in found])
    for what, recall in (("passages", passage_recall), ("sections", section_recall)):
        mine, other = (statistics.mean(map(recall, asked, found)) for found in (ours, theirs))
        print(f"recall@5 of {what}: flotilla {mine:.3f}, bm25s {other:.3f}, ratio {mine / other:.2f}")


async def _speed(
    database: Database, pool: Pool, passages: list[ManualPassage], asked: list[Question], sizes: list[int]
) -> None:
    knowledge = KnowledgeBase(pool)
    first: float | None = None
    async for size in grown(knowledge, passages, sizes):
        await settle(database.superuser_dsn)
        timing = await timed(pool, knowledge, asked, size)
        first = first or timing.p50_ms
        print(
            f"{timing.passages:>7} passages: p50 {timing.p50_ms:.2f} ms ({timing.p50_ms / first:.2f}x), "
            f"p95 {timing.p95_ms:.1f}, p99 {timing.p99_ms:.1f}; PostgreSQL's CPU {timing.cpu_ms:.2f} ms; "
            f"p50 of the first searches {timing.first_ms:.2f} ms"
        )


async def _run(server_dsn: str, manual: Path, count: int, sizes: list[int]) -> None:
    pages = uploads(manual)
    passages = passages_of(pages)
    asked = questions(manual, passages, count)
    async with open_database(server_dsn) as (database, pool):
        await _quality(database, pool, pages, passages, asked)
        await _speed(database, pool, passages, asked, sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manual", type=Path, help="the html folder of python3-doc")
    parser.add_argument("--questions", type=int, default=1500)
    parser.add_argument("--sizes", default="1000,10000,100000")
    arguments = parser.parse_args()
    manual = find_manual(arguments.manual)
    sizes = [int(size) for size in arguments.sizes.split(",")]
    with stack_for_tests(["postgres"]) as stack:
        asyncio.run(_run(stack.postgres_dsn("postgres"), manual, arguments.questions, sizes))


if __name__ == "__main__":
    main()
