"""Loads documents into a knowledge base, or embeds them, and prints a line for each step, until it is killed.

python -m tests.support.loading_process load DSN FIRST COUNT GENERATION
python -m tests.support.loading_process embed DSN MODEL
"""

import asyncio
import hashlib
import sys
from collections.abc import Sequence

from flotilla.knowledge import KnowledgeBase, UploadedDocument
from flotilla.knowledge.embedding import PassageEmbedding
from flotilla.postgres import open_pool

TENANT = "acme"


def document(number: int, generation: int) -> UploadedDocument:
    """A document of several passages, other ones in each generation."""
    parts = "\n\n".join(
        f"## Part {part}\n\nPier {number} rope {part} year {generation}." for part in range(1 + number % 5)
    )
    return UploadedDocument(uri=f"{number}.md", content=f"# Pier {number}\n\n{parts}".encode())


class Hashed:
    """Vectors that depend on the text alone."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        print("batch", flush=True)  # noqa: T201 - the test counts
        digests = (hashlib.sha256(f"{self.name}{text}".encode()).digest() for text in texts)
        return [[(digest[at % 32] - 128) / 128 for at in range(384)] for digest in digests]


async def _load(dsn: str, first: int, count: int, generation: int) -> None:
    async with open_pool(dsn, application="loader") as pool:
        knowledge = KnowledgeBase(pool)
        for number in range(first, first + count):
            await knowledge.add(TENANT, document(number, generation))
            print(number, flush=True)  # noqa: T201 - the test counts


async def _embed(dsn: str, model: str) -> None:
    async with open_pool(dsn, application="embedder") as pool:
        await PassageEmbedding(pool, Hashed(model)).embed_new_passages(asyncio.Event())


def main() -> None:
    what, dsn, *rest = sys.argv[1:]
    if what == "load":
        first, count, generation = map(int, rest)
        asyncio.run(_load(dsn, first, count, generation))
    else:
        asyncio.run(_embed(dsn, *rest))


if __name__ == "__main__":
    main()
