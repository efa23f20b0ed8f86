"""Ends what is open in sessions whose key was destroyed, by an erasure or by retention, and says why.

A workflow whose history can't be read any more can't end by itself once its worker has forgotten the key: it is asked
first, and terminated when its time is over. Each step can be repeated, so it ends however often the worker is killed.
"""

from collections.abc import Mapping
from datetime import timedelta

import asyncpg
import structlog
from temporalio.client import Client, WorkflowExecutionStatus

from flotilla.encryption import WHY_ERASED
from flotilla.postgres import Pool
from workflow_worker.reconciler import ReconciledRowKind, UnfinishedRow, WorkflowEnd
from workflow_worker.temporal import ignore_missing_workflow

ERASED_WORK_GRACE_PERIOD = timedelta(seconds=30)
"""How long what is open has to end by itself. Who began to start it when the key was there is through by then, too."""
ERASED_WORK_BATCH_SIZE = 200
_SELECT_WORK_OF_ERASED_SESSIONS = "SELECT * FROM flotilla.work_of_erased_sessions($1, $2)"
log = structlog.get_logger(__name__)


class ErasedWorkDuty:
    """Ends runs, tasks, actions and orders, with their questions, votes and webhooks."""

    def __init__(
        self,
        pool: Pool,
        client: Client,
        kinds: Mapping[str, ReconciledRowKind],
        patience: timedelta = ERASED_WORK_GRACE_PERIOD,
    ) -> None:
        self._pool = pool
        self._client = client
        self._kinds = kinds
        self._patience = patience

    async def run_once(self) -> None:
        """One round: up to 200 of them. What fails for one keeps none of the others waiting."""
        for row in await self._pool.fetch(_SELECT_WORK_OF_ERASED_SESSIONS, self._patience, ERASED_WORK_BATCH_SIZE):
            try:
                await self._end_erased_work(row)
            except Exception:
                log.exception("erased_work_postponed", kind=row["kind"], id=row["id"], tenant=row["tenant_id"])

    async def _end_erased_work(self, row: asyncpg.Record) -> None:
        workflow = self._client.get_workflow_handle(row["workflow_id"])
        if not row["is_stuck"]:
            with ignore_missing_workflow():
                await workflow.cancel()
            return
        with ignore_missing_workflow():
            await workflow.terminate(WHY_ERASED)
        unfinished = UnfinishedRow(row["kind"], row["tenant_id"], row["id"], row["workflow_id"])
        await self._kinds[row["kind"]].close(unfinished, WorkflowEnd(WorkflowExecutionStatus.TERMINATED, WHY_ERASED))
        log.info("erased_work_ended", kind=row["kind"], id=row["id"], tenant=row["tenant_id"])
