"""A thief with the password of a database role: settings of their choice, and what they get by them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from flotilla.postgres import Connection, Pool, TaskProof, acting_for_task

TENANT, VICTIM = "default", "acme"
HELD = TaskProof(task_id="t1", attempt=1, secret="a secret")
"""The ticket of one open task, of agent `adder`."""
OF_TASKS = (
    "sessions", "interactions", "session_rollbacks", "documents", "passages", "postings", "indexed_documents",
    "knowledge_bases", "agent_tasks", "llm_calls", "llm_claims", "tool_calls", "token_budgets", "token_reservations",
    "actions", "action_executions",
)  # fmt: skip
"""The tables that agents may read rows of."""


@asynccontextmanager
async def acting(pool: Pool, tenant: str = TENANT, held: TaskProof | None = HELD) -> AsyncIterator[Connection]:
    """One transaction of the thief's, under settings of their choice; nothing of it stays."""
    with acting_for_task(held):
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                names = {"flotilla.tenant_id": tenant, "flotilla.sees_all": "on"}
                if held is not None:
                    names |= {
                        "flotilla.task_id": held.task_id,
                        "flotilla.task_attempt": str(held.attempt),
                        "flotilla.task_secret": held.secret,
                    }
                for name, value in names.items():
                    await connection.execute("SELECT set_config($1, $2, true)", name, value)
                yield connection
            finally:
                await transaction.rollback()


async def refused(connection: Connection, statement: str, *arguments: object) -> bool:
    """Whether the rights stop it; a statement that finds no row to change has not been refused."""
    try:
        async with connection.transaction():
            await connection.execute(statement, *arguments)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False


async def seen(connection: Connection) -> dict[str, int]:
    """How many rows of each table the agent sees."""
    counts = {table: await connection.fetchval(f"SELECT count(*) FROM flotilla.{table}") for table in OF_TASKS}
    return {table: count for table, count in counts.items() if count}
