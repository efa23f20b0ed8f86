"""Vectors in Redis: a vector set for each tenant and index."""

import hashlib
import struct
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from flotilla.config import KnowledgeSettings
from flotilla.contracts.errors import RetryLater
from flotilla.knowledge.vector_store import Near, VectorStore

SETTING = "FLOTILLA_VECTOR_STORE_URL"
KEYS = "flotilla:vectors:"
"""What all keys begin with: the pattern of a login for nothing else is `~flotilla:vectors:*`."""
_MOST = 2**63 - 1
_ROUNDED = 1.01
"""Vectors are kept in 8 bits for each number, so a cosine may be a little over 1."""


class RedisVectors:
    """A vector set for each tenant and model. Needs Redis 8 or newer."""

    name = "redis"

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def put(self, tenant_id: str, model: str, vectors: Mapping[int, Sequence[float]]) -> None:
        """As `VectorStore.put`."""
        key = _key(tenant_id, model)
        await self._all([("VADD", key, "FP32", _packed(vector), number) for number, vector in vectors.items()])

    async def remove_vectors(self, tenant_id: str, model: str, passages: Collection[int]) -> None:
        """As `VectorStore.remove_vectors`."""
        await self._all([("VREM", _key(tenant_id, model), number) for number in passages])

    async def remove_all_vectors(self, tenant_id: str, model: str) -> None:
        """As `VectorStore.remove_all_vectors`."""
        await self._all([("UNLINK", _key(tenant_id, model))])

    async def count_vectors(self, tenant_id: str, model: str) -> int:
        """As `VectorStore.count_vectors`."""
        [found] = await self._all([("VCARD", _key(tenant_id, model))])
        return int(found)

    async def find_nearest(self, tenant_id: str, model: str, vector: Sequence[float], most: int) -> Near:
        """As `VectorStore.find_nearest`."""
        search = ("VSIM", _key(tenant_id, model), "FP32", _packed(vector), "WITHSCORES", "COUNT", most, "EF", most)
        [found] = await self._all([search])
        try:
            return [_near(number, similarity) for number, similarity in zip(found[::2], found[1::2], strict=True)]
        except (ValueError, TypeError) as error:
            raise RetryLater(f"the vector store returned something that is not a passage: {error}") from error

    async def _all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to all commands, sent at once."""
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                answers: list[Any] = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise RetryLater(
                f"the vector store (FLOTILLA_VECTOR_STORE_URL) failed: {error}; it must be Redis 8 or newer, with a "
                f"login for ~{KEYS}* as docs/documents.md has it"
            ) from error
        return answers


@asynccontextmanager
async def open_vector_store(
    settings: KnowledgeSettings, connect: Callable[..., AbstractAsyncContextManager[Redis]]
) -> AsyncIterator[VectorStore | None]:
    """The store that the settings name; none where vectors are kept in PostgreSQL.

    Raises:
        ConfigurationError: the store's URL is none that can be used.
    """
    if settings.vector_store_url is None:
        yield None
        return
    async with connect(settings.vector_store_url.get_secret_value(), setting=SETTING) as redis:
        yield RedisVectors(redis)


def _key(tenant_id: str, model: str) -> str:
    return f"{KEYS}{hashlib.sha256(model.encode()).hexdigest()[:16]}:{tenant_id}"


def _near(number: bytes, similarity: bytes) -> tuple[int, float]:
    """The passage and its cosine; Redis says (1 + cosine) / 2."""
    passage, cosine = int(number), 2 * float(similarity) - 1
    if not 0 <= passage <= _MOST or not -_ROUNDED <= cosine <= _ROUNDED:
        raise ValueError(f"passage {passage} with cosine {cosine}")
    return passage, cosine


def _packed(vector: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(vector)}f", *vector)
