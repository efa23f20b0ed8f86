"""What the leader does for queued runs, where nobody else has: a gateway may die, or end a run that never began."""

import structlog
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from flotilla.postgres import Pool, tenant_transaction
from flotilla.workflows.calls.runs import CloseRun, RunKey
from workflow_worker.activities.runs import RunActivities
from workflow_worker.queued_runs import open_next_run

QUEUE_BATCH_SIZE = 100
_SELECT_WAITING_SESSIONS = "SELECT * FROM flotilla.waiting_sessions($1)"
_SELECT_IS_RUN_PENDING = "SELECT status = 'pending' FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2"
log = structlog.get_logger(__name__)


class RunQueueDuty:
    """Opens runs in sessions without an active one, and asks active runs to end that others interrupt."""

    def __init__(self, pool: Pool, client: Client, runs: RunActivities) -> None:
        self._pool = pool
        self._client = client
        self._runs = runs

    async def run_once(self) -> None:
        """One round."""
        for row in await self._pool.fetch(_SELECT_WAITING_SESSIONS, QUEUE_BATCH_SIZE):
            if row["active_run_id"] is None:
                await self._open_next_run(row["tenant_id"], row["session_id"])
            else:
                key = RunKey(tenant_id=row["tenant_id"], run_id=row["active_run_id"])
                await self.cancel_run(key, row["active_workflow_id"])

    async def _open_next_run(self, tenant_id: str, session_id: str) -> None:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            opened = await open_next_run(connection, tenant_id, session_id)
        if opened:
            log.info("queued_run_opened", session_id=session_id)

    async def cancel_run(self, run: RunKey, workflow_id: str) -> None:
        """Ask an active run to end. Repeating it changes nothing."""
        try:
            await self._client.get_workflow_handle(workflow_id).cancel()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            await self._close_unstarted_run(run)

    async def _close_unstarted_run(self, run: RunKey) -> None:
        """End a run whose workflow never began; the reconciler ends one whose workflow is over."""
        async with tenant_transaction(self._pool, run.tenant_id) as connection:
            pending = await connection.fetchval(_SELECT_IS_RUN_PENDING, run.tenant_id, run.run_id)
        if pending:
            await self._runs.close_run(CloseRun(run=run, status="cancelled"))
