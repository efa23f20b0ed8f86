"""Replies on `flotilla.replies`, where agents of former versions send them.

Anybody may write there, so such a reply completes nothing and says nothing about whose it is. It makes the bridge look:
what a former version's agent stored itself is on record, and completes the step; what a foreign agent sent to a task
that a former version of the worker delegated (which has no row in `flotilla.delegations`) is stored, and the step's
next attempt finds it. Once the tasks of that version are over, nothing here matches any more.
"""

from flotilla.contracts.errors import DeadLetter, Refused
from flotilla.contracts.names import reply_stream
from flotilla.contracts.tasks import AgentReply
from flotilla.postgres import UNSTORABLE, Connection, Pool, retry_later_if_unavailable, tenant_transaction
from workflow_worker.foreign_replies import store_foreign_reply
from workflow_worker.settlement import record_refused_reply

# Who was asked, and whether this version of the worker has issued a ticket.
_SELECT_DELEGATED_TASK = """
SELECT t.agent, t.session_id, t.run_id, t.status, EXISTS (
    SELECT FROM flotilla.delegations AS d WHERE d.tenant_id = t.tenant_id AND d.task_id = t.task_id) AS has_ticket
FROM flotilla.agent_tasks AS t WHERE t.tenant_id = $1 AND t.task_id = $2
"""


async def find_agent_of_stored_answer(pool: Pool, reply: AgentReply) -> str | None:
    """The agent whose stored answer the bridge may look for; None where a foreign agent's was stored just now.

    Raises:
        DeadLetter: the reply belongs on the agent's own stream.
        RetryLater: PostgreSQL is unavailable.
    """
    try:
        with retry_later_if_unavailable():
            async with tenant_transaction(pool, reply.tenant_id) as connection:
                return await _check_task_and_store_foreign_reply(connection, reply)
    except (Refused, *UNSTORABLE) as error:
        raise DeadLetter(f"reply to task {reply.task_id}: {error}") from error


async def _check_task_and_store_foreign_reply(connection: Connection, reply: AgentReply) -> str | None:
    row = await connection.fetchrow(_SELECT_DELEGATED_TASK, reply.tenant_id, reply.task_id)
    if row is None or (row["agent"], row["session_id"]) != (reply.agent, reply.session_id):
        raise record_refused_reply("", reply, "former_stream", f"agents reply on {reply_stream('<agent>')}")
    if row["has_ticket"]:
        if not reply.persisted and row["status"] == "queued":
            raise record_refused_reply(
                "", reply, "former_stream", f"agent {row['agent']} replies on {reply_stream(row['agent'])}"
            )
        return str(row["agent"])
    if not reply.persisted:
        await store_foreign_reply(connection, row["agent"], reply, run_id=row["run_id"])
    return None
