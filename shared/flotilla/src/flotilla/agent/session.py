"""The session as an agent sees it."""

from flotilla.contracts.tasks import Turn
from flotilla.postgres import Pool, tenant_transaction

# The last questions and answers, newest first.
_TURNS = """
SELECT query, answer FROM flotilla.interactions WHERE session_id = $1 ORDER BY created_at DESC LIMIT $2
"""


class StoredSession:
    """Reads `flotilla.interactions`, which the same transaction writes that ends a run."""

    def __init__(self, pool: Pool, tenant_id: str, session_id: str) -> None:
        self._pool = pool
        self._tenant_id = tenant_id
        self._session_id = session_id

    async def turns(self, limit: int = 20) -> list[Turn]:
        """The last `limit` questions and answers, oldest first."""
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            rows = await connection.fetch(_TURNS, self._session_id, limit)
        return [Turn(query=row["query"], answer=row["answer"]) for row in reversed(rows)]
