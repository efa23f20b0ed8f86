"""Opens the runs that wait for their turn in a session: in order, each once, under the session's lock."""

import asyncpg

from flotilla.contracts.event_builders import run_finished_event, run_opening_events
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import workflow_source
from flotilla.contracts.requests import read_run_request
from flotilla.encryption.tables import RUNS
from flotilla.eventstore.sessions import get_session, roll_back_session
from flotilla.outbox import append
from flotilla.postgres import Connection, open_row
from flotilla.telemetry import metrics
from workflow_worker.notices import queue_run_notice

# Those that interrupt come before those that are enqueued; `more` says that another one interrupts this one.
_SELECT_NEXT_RUN = """
SELECT run_id, session_id, user_id, acted_by, if_active, request, workflow, (if_active <> 'enqueue' AND EXISTS (
    SELECT FROM flotilla.runs AS o WHERE o.tenant_id = $1 AND o.session_id = $2 AND o.status = 'queued'
        AND o.if_active <> 'enqueue' AND o.run_id <> r.run_id)) AS more
FROM flotilla.runs AS r WHERE tenant_id = $1 AND session_id = $2 AND status = 'queued'
    AND NOT flotilla_ops.is_suspended($1)
    AND NOT EXISTS (SELECT FROM flotilla.runs AS a WHERE a.tenant_id = $1 AND a.session_id = $2
                    AND a.status IN ('pending', 'running', 'interrupted'))
ORDER BY if_active = 'enqueue', first_seq LIMIT 1
"""
_OPEN_RUN = """
UPDATE flotilla.runs SET status = $3, opened_seq = $4, finished_at = CASE WHEN $3 = 'cancelled' THEN now() END
WHERE tenant_id = $1 AND run_id = $2
"""
# Where the run began that was opened last; runs that never left the queue have no beginning.
_SELECT_LAST_RUN_BEGINNING = """
SELECT max(coalesce(opened_seq, first_seq)) FROM flotilla.runs
WHERE tenant_id = $1 AND session_id = $2 AND (if_active IS NULL OR opened_seq IS NOT NULL)
"""


async def open_next_run(connection: Connection, tenant_id: str, session_id: str) -> bool:
    """Open the session's next run, if none is active and its tenant is not suspended; return whether there was one. The
    leader starts its workflow.

    One that the run behind it interrupts is opened, so that its request is in the history, and ended at once.
    """
    await get_session(connection, tenant_id, session_id, lock=True)
    opened = False
    while (row := await connection.fetchrow(_SELECT_NEXT_RUN, tenant_id, session_id)) is not None:
        await _open_run(connection, tenant_id, session_id, row)
        opened = True
        if not row["more"]:
            break
    return opened


async def _open_run(connection: Connection, tenant_id: str, session_id: str, row: asyncpg.Record) -> None:
    source, run_id = workflow_source(row["workflow"]), row["run_id"]
    through: JsonObject = {"acted_by": row["acted_by"]} if row["acted_by"] else {}
    if row["if_active"] == "rollback":
        by: JsonObject = {"by": row["user_id"], **through, "for_run_id": run_id}
        await _roll_back_last_run(connection, tenant_id, session_id, source, by)
    opened = await open_row(connection, tenant_id, RUNS, row)
    events = run_opening_events(read_run_request(opened["request"]), source, through=through)
    if row["more"]:
        events.append(run_finished_event(run_id, "cancelled", source))
        metrics.RUNS.labels("cancelled").inc()
    appended = await append(connection, tenant_id, session_id, events)
    status = "cancelled" if row["more"] else "pending"
    await connection.execute(_OPEN_RUN, tenant_id, run_id, status, appended.first_seq)
    if row["more"]:
        await queue_run_notice(connection, tenant_id, run_id, "run.finished")


async def _roll_back_last_run(
    connection: Connection, tenant_id: str, session_id: str, source: str, by: JsonObject
) -> None:
    """Make the session what it was before the run that was opened last."""
    began = await connection.fetchval(_SELECT_LAST_RUN_BEGINNING, tenant_id, session_id)
    if began is not None:
        await roll_back_session(connection, tenant_id, session_id, began - 1, expected_seq=None, source=source, by=by)
