"""Brings rows and workflows together again after one was written and the other was not.

A gateway that dies between its commit and the start of the workflow leaves a pending row: its workflow is started
here. A workflow that an operator terminates, or that Temporal no longer knows, leaves an active row: it is closed here.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import structlog
from opentelemetry.trace import SpanKind
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import Undecodable
from flotilla.encryption import SealedTable
from flotilla.postgres import Pool, open_stored_row
from flotilla.telemetry import span
from flotilla.temporal import TASK_TIMEOUT, is_permanent_error
from flotilla.workflows.calls.delegation import MAX_REASON_CHARS

log = structlog.get_logger(__name__)

UNSTARTED_ROW_AGE = timedelta(seconds=5)
UNFINISHED_ROW_AGE = timedelta(seconds=30)
WORKFLOW_RESULT_TIMEOUT = timedelta(seconds=5)
RECONCILER_BATCH_SIZE = 50
_SELECT_UNFINISHED_WORK = "SELECT * FROM flotilla.unfinished_work($1, $2, $3, $4)"
_SELECT_OPENED_RUNS = "SELECT * FROM flotilla.opened_runs($1)"
_FIRST_CURSOR = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class UnfinishedRow:
    """A row that nobody has finished."""

    kind: str
    tenant_id: str
    id: str
    workflow_id: str


@dataclass(frozen=True, slots=True)
class StartableWorkflow:
    """A workflow that can be started."""

    workflow: str
    request: object
    task_queue: str = ""
    """Where its workers are; empty: where this one is."""


@dataclass(frozen=True, slots=True)
class ReconciledRowKind:
    """How one kind of row is started and closed."""

    read: Callable[[str], StartableWorkflow]
    """Reads its stored request; raises Undecodable."""
    close: Callable[[UnfinishedRow, "WorkflowEnd"], Awaitable[None]]
    """Called when its workflow is over and the row is not."""
    table: SealedTable
    """Where the row is."""


@dataclass(frozen=True, slots=True)
class WorkflowEnd:
    """How a workflow ended; the status is None when Temporal does not know it (any more)."""

    status: WorkflowExecutionStatus | None
    reason: str = ""
    was_started: bool = True
    """False for one that can't be."""


class WorkflowReconciler:
    """Looks at a bounded number of rows each time; a cursor goes round the older ones."""

    def __init__(self, pool: Pool, client: Client, task_queue: str, kinds: Mapping[str, ReconciledRowKind]) -> None:
        self._pool = pool
        self._client = client
        self._task_queue = task_queue
        self._kinds = kinds
        self._cursor = _FIRST_CURSOR

    async def run_round(self) -> None:
        """One round: starts what was never started, then looks after the next few of the rest."""
        unstarted = (UNSTARTED_ROW_AGE, _FIRST_CURSOR, True, RECONCILER_BATCH_SIZE)
        for row in await self._pool.fetch(_SELECT_UNFINISHED_WORK, *unstarted):
            await self._start_workflow_of_row(row)
        unfinished = (UNFINISHED_ROW_AGE, self._cursor, False, RECONCILER_BATCH_SIZE)
        rows = await self._pool.fetch(_SELECT_UNFINISHED_WORK, *unfinished)
        for row in rows:
            await self._start_or_close_row(_unfinished_row(row))
        self._cursor = rows[-1]["created_at"] if len(rows) >= RECONCILER_BATCH_SIZE else _FIRST_CURSOR

    async def start_opened_runs(self) -> None:
        """Start the runs that waited for others, and were opened."""
        for row in await self._pool.fetch(_SELECT_OPENED_RUNS, RECONCILER_BATCH_SIZE):
            await self._start_workflow_of_row(row)

    async def _start_workflow_of_row(self, row: asyncpg.Record) -> None:
        kind = self._kinds[row["kind"]]
        with span("reconcile", kind=SpanKind.PRODUCER, parent=row["traceparent"]):
            try:
                start = kind.read(await self._read_workflow_request(kind, row))
                await self._client.start_workflow(
                    start.workflow,
                    start.request,
                    id=row["workflow_id"],
                    task_queue=start.task_queue or self._task_queue,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    task_timeout=TASK_TIMEOUT,
                )
            except WorkflowAlreadyStartedError:
                await self._start_or_close_row(_unfinished_row(row))
                return
            except RPCError as error:
                if not is_permanent_error(error):
                    raise
                await self._close_unstartable_row(_unfinished_row(row), str(error))
                return
            except Undecodable as error:
                await self._close_unstartable_row(_unfinished_row(row), str(error))
                return
        log.info("workflow_started", kind=row["kind"], workflow_id=row["workflow_id"])

    async def _read_workflow_request(self, kind: ReconciledRowKind, row: asyncpg.Record) -> str:
        """What the workflow is started with, as JSON text."""
        session_id = from_json(row["request"], dict).get("session_id")
        named = {"request": row["request"], "session_id": session_id, kind.table.key: row["id"]}
        return str((await open_stored_row(self._pool, row["tenant_id"], kind.table, named))["request"])

    async def _close_unstartable_row(self, row: UnfinishedRow, why: str) -> None:
        """Closes a row whose workflow can't be started, so that the rows after it get their turn."""
        ended = WorkflowEnd(None, why[:MAX_REASON_CHARS], was_started=False)
        await self._kinds[row.kind].close(row, ended)
        log.error("workflow_not_startable", kind=row.kind, id=row.id, workflow_id=row.workflow_id, error=ended.reason)

    async def _start_or_close_row(self, row: UnfinishedRow) -> None:
        status = await self._load_workflow_status(row.workflow_id)
        if status == WorkflowExecutionStatus.RUNNING:
            return
        await self._kinds[row.kind].close(
            row, WorkflowEnd(status, await self._load_failure_reason(row.workflow_id) if status else "")
        )
        log.warning(
            "row_closed", kind=row.kind, id=row.id, workflow_id=row.workflow_id, workflow=status and status.name
        )

    async def _load_workflow_status(self, workflow_id: str) -> WorkflowExecutionStatus | None:
        try:
            return (await self._client.get_workflow_handle(workflow_id).describe()).status
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return None
            raise

    async def _load_failure_reason(self, workflow_id: str) -> str:
        """What a failed or terminated workflow left as its reason; empty when there is none."""
        try:
            await self._client.get_workflow_handle(workflow_id).result(
                follow_runs=False, rpc_timeout=WORKFLOW_RESULT_TIMEOUT
            )
        except WorkflowFailureError as error:
            return str(error.cause)[:MAX_REASON_CHARS]
        return ""


def _unfinished_row(row: asyncpg.Record) -> UnfinishedRow:
    return UnfinishedRow(row["kind"], row["tenant_id"], row["id"], row["workflow_id"])
