"""A store of vectors outside PostgreSQL.

It is asked which passages are near, and for nothing else: what a caller gets is read in PostgreSQL, under its row
security. So a store that is behind, lies, or holds another tenant's vectors shows nobody what they may not read.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeAlias

Near: TypeAlias = list[tuple[int, float]]
"""Passage numbers and cosines, the nearest first."""


class VectorStore(Protocol):
    """Keeps vectors by tenant, model and passage, and finds the nearest."""

    @property
    def name(self) -> str:
        """Part of an index's identity: another store is another index."""

    async def put(self, tenant_id: str, model: str, vectors: Mapping[int, Sequence[float]]) -> None:
        """Keep these vectors, each in place of a former one.

        Raises:
            RetryLater: the store does not answer; some of them may be kept.
        """

    async def remove_vectors(self, tenant_id: str, model: str, passages: Collection[int]) -> None:
        """Forget these passages' vectors, if they are there.

        Raises:
            RetryLater: the store does not answer.
        """

    async def remove_all_vectors(self, tenant_id: str, model: str) -> None:
        """Forget all that the tenant has of this model.

        Raises:
            RetryLater: the store does not answer.
        """

    async def count_vectors(self, tenant_id: str, model: str) -> int:
        """Return how many vectors the tenant has of this model.

        Raises:
            RetryLater: the store does not answer.
        """

    async def find_nearest(self, tenant_id: str, model: str, vector: Sequence[float], most: int) -> Near:
        """Return the `most` nearest passages.

        Raises:
            RetryLater: the store does not answer.
        """
