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

UNSTARTED_AFTER = timedelta(seconds=5)
UNFINISHED_AFTER = timedelta(seconds=30)
REASON_TIMEOUT = timedelta(seconds=5)
BATCH = 50
_UNFINISHED = "SELECT * FROM flotilla.unfinished_work($1, $2, $3, $4)"
_OPENED = "SELECT * FROM flotilla.opened_runs($1)"
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


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
class Kind:
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

    def __init__(self, pool: Pool, client: Client, task_queue: str, kinds: Mapping[str, Kind]) -> None:
        self._pool = pool
        self._client = client
        self._task_queue = task_queue
        self._kinds = kinds
        self._cursor = _BEGINNING

    async def run(self) -> None:
        """One round: starts what was never started, then looks after the next few of the rest."""
        for row in await self._pool.fetch(_UNFINISHED, UNSTARTED_AFTER, _BEGINNING, True, BATCH):  # noqa: FBT003
            await self._start(row)
        rows = await self._pool.fetch(_UNFINISHED, UNFINISHED_AFTER, self._cursor, False, BATCH)  # noqa: FBT003
        for row in rows:
            await self._look_after(_unfinished(row))
        self._cursor = rows[-1]["created_at"] if len(rows) >= BATCH else _BEGINNING

    async def start_opened_runs(self) -> None:
        """Start the runs that waited for others, and were opened."""
        for row in await self._pool.fetch(_OPENED, BATCH):
            await self._start(row)

    async def _start(self, row: asyncpg.Record) -> None:
        kind = self._kinds[row["kind"]]
        with span("reconcile", kind=SpanKind.PRODUCER, parent=row["traceparent"]):
            try:
                start = kind.read(await self._request(kind, row))
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
                await self._look_after(_unfinished(row))
                return
            except RPCError as error:
                if not is_permanent_error(error):
                    raise
                await self._give_up(_unfinished(row), str(error))
                return
            except Undecodable as error:
                await self._give_up(_unfinished(row), str(error))
                return
        log.info("workflow_started", kind=row["kind"], workflow_id=row["workflow_id"])

    async def _request(self, kind: Kind, row: asyncpg.Record) -> str:
        """What the workflow is started with, as JSON text."""
        session_id = from_json(row["request"], dict).get("session_id")
        named = {"request": row["request"], "session_id": session_id, kind.table.key: row["id"]}
        return str((await open_stored_row(self._pool, row["tenant_id"], kind.table, named))["request"])

    async def _give_up(self, row: UnfinishedRow, why: str) -> None:
        """Closes a row whose workflow can't be started, so that the rows after it get their turn."""
        ended = WorkflowEnd(None, why[:MAX_REASON_CHARS], was_started=False)
        await self._kinds[row.kind].close(row, ended)
        log.error("workflow_not_startable", kind=row.kind, id=row.id, workflow_id=row.workflow_id, error=ended.reason)

    async def _look_after(self, row: UnfinishedRow) -> None:
        status = await self._status(row.workflow_id)
        if status == WorkflowExecutionStatus.RUNNING:
            return
        await self._kinds[row.kind].close(
            row, WorkflowEnd(status, await self._reason(row.workflow_id) if status else "")
        )
        log.warning(
            "row_closed", kind=row.kind, id=row.id, workflow_id=row.workflow_id, workflow=status and status.name
        )

    async def _status(self, workflow_id: str) -> WorkflowExecutionStatus | None:
        try:
            return (await self._client.get_workflow_handle(workflow_id).describe()).status
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return None
            raise

    async def _reason(self, workflow_id: str) -> str:
        """What a failed or terminated workflow left as its reason; empty when there is none."""
        try:
            await self._client.get_workflow_handle(workflow_id).result(follow_runs=False, rpc_timeout=REASON_TIMEOUT)
        except WorkflowFailureError as error:
            return str(error.cause)[:MAX_REASON_CHARS]
        return ""


def _unfinished(row: asyncpg.Record) -> UnfinishedRow:
    return UnfinishedRow(row["kind"], row["tenant_id"], row["id"], row["workflow_id"])
