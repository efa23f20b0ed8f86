"""Whether the agent is who its connection to PostgreSQL says."""

from contextlib import suppress

import asyncpg

from flotilla.contracts.errors import RetryLater
from flotilla.contracts.names import agent_role
from flotilla.postgres import Pool, retry_later_if_unavailable

_SELECT_LOGIN = "SELECT session_user AS login, flotilla_ops.is_agent($1) AS is_agent"


async def check_database_role(pool: Pool, agent: str) -> None:
    """Raise RetryLater when the login is not the agent's role, to which tickets open nothing: a readiness check."""
    # Without the function the schema is older than this code: another check reports it.
    with retry_later_if_unavailable(), suppress(asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError):
        row = await pool.fetchrow(_SELECT_LOGIN, agent)
        if row is not None and not row["is_agent"]:
            raise RetryLater(
                f"PostgreSQL's user {row['login']} is not the role of agent {agent}: "
                f"log in as {agent_role(agent)} (FLOTILLA_POSTGRES_DSN), which `python -m flotilla.install` makes"
            )
