"""Who asks for embeddings, one after the other: the model takes a processor while it works."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flotilla.contracts.names import join_id_parts
from flotilla.knowledge.embedding import Embedder
from gateway.auth.principal import Principal
from gateway.problems import TooMany

BATCH = 16
"""So many texts at a time: others get their turn in between."""
RETRY_S = 1.0
MAX_WAITING = 16
MAX_WAITING_OF_TENANT = 8
MAX_WAITING_OF_CALLER = 4
"""Requests at once; the replica's."""


class EmbeddingQueue:
    """One batch at a time, and few requests of each caller and tenant that wait."""

    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()
        self._model = asyncio.Lock()

    async def embed(self, embedder: Embedder, caller: Principal, texts: Sequence[str]) -> list[list[float]]:
        """Return the vector of each text.

        Raises:
            TooMany: too many requests wait already.
            RetryLater: the model does not answer.
        """
        vectors: list[list[float]] = []
        with self._place(caller):
            for at in range(0, len(texts), BATCH):
                async with self._model:
                    vectors += await embedder.embed(texts[at : at + BATCH])
        return vectors

    @contextmanager
    def _place(self, caller: Principal) -> Iterator[None]:
        limits = {
            "": MAX_WAITING,
            caller.tenant_id: MAX_WAITING_OF_TENANT,
            join_id_parts(caller.tenant_id, caller.name): MAX_WAITING_OF_CALLER,
        }
        if any(self._waiting[one] >= limit for one, limit in limits.items()):
            raise TooMany("too many requests for embeddings wait: send fewer at once", RETRY_S)
        self._waiting.update(limits.keys())
        try:
            yield
        finally:
            self._waiting -= Counter(limits.keys())
