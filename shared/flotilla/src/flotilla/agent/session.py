"""The session as an agent sees it."""

from flotilla.contracts.tasks import Turn
from flotilla.eventstore.turns import load_earlier_turns
from flotilla.postgres import Pool


class StoredSessionHistory:
    """Reads the answers of earlier runs, as forks and rollbacks left them."""

    def __init__(self, pool: Pool, tenant_id: str, session_id: str) -> None:
        self._pool = pool
        self._tenant_id = tenant_id
        self._session_id = session_id

    async def turns(self, limit: int = 10) -> list[Turn]:
        """The last questions and answers, oldest first: at most `limit` and about 8,000 characters."""
        return await load_earlier_turns(self._pool, self._tenant_id, self._session_id, limit)
