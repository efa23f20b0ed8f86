"""How many runs and tasks are open: of a person, of a service, of a tenant."""

from flotilla.contracts.names import TokenPayer, join_id_parts
from flotilla.postgres.pool import Connection

# Waits for others who are about to start something for the same.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_SELECT_OPEN_WORK = "SELECT flotilla.open_work($1, $2)"


async def count_open_work(connection: Connection, tenant_id: str, kind: TokenPayer, name: str) -> int:
    """Return how many are open; nobody else starts one for the same until the caller's transaction ends."""
    await connection.execute(_LOCK, join_id_parts("open-work", tenant_id, kind, name))
    count: int = await connection.fetchval(_SELECT_OPEN_WORK, kind, name)
    return count
