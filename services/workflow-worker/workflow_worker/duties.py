"""What the leader does for the whole fleet, beside bus housekeeping."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from temporalio.client import WorkflowExecutionStatus

from flotilla.contracts.envelope import from_json
from flotilla.contracts.names import APPROVAL_WORKFLOW, ORDER_WORKFLOW, PIPELINE_WORKFLOW, RAG_WORKFLOW
from flotilla.contracts.requests import (
    ActionRequest,
    OrderRequest,
    PipelineRequest,
    RAGRequest,
    RunStatus,
    read_run_request,
)
from flotilla.contracts.session_events import ErrorRaised
from flotilla.encryption import WHY_ERASED
from flotilla.encryption.tables import ACTIONS, ORDERS, PIPELINES, RUNS
from flotilla.postgres import Pool, retry_later_if_unavailable
from flotilla.telemetry import metrics
from flotilla.workflows.calls.delegation import EndedTaskReference
from flotilla.workflows.calls.runs import CloseRun, RunKey
from workflow_worker.activities.actions import ActionActivities
from workflow_worker.activities.gated_calls import GatedCallActivities
from workflow_worker.activities.orders import OrderActivities
from workflow_worker.activities.pipelines import PipelineActivities
from workflow_worker.activities.runs import RunActivities
from workflow_worker.activities.signatures.pipelines import PipelineReference
from workflow_worker.leader import LeaderDuty, make_repeating_duty
from workflow_worker.reconciler import ReconciledRowKind, StartableWorkflow, UnfinishedRow, WorkflowEnd

GAUGES_INTERVAL_S = 5.0

_SELECT_APPROVAL_GAUGES = "SELECT * FROM flotilla.approval_gauges()"
_SELECT_AGENT_NAMES = "SELECT DISTINCT name FROM flotilla_ops.agents"
_FLEET_GAUGES = (
    metrics.APPROVALS_PENDING,
    metrics.APPROVAL_OLDEST,
    metrics.APPROVALS_OVERDUE,
    metrics.SAGA_PARKED,
)
_RUN_STATUS_BY_WORKFLOW_STATUS: dict[WorkflowExecutionStatus | None, RunStatus] = {
    WorkflowExecutionStatus.TIMED_OUT: "timeout",
    WorkflowExecutionStatus.TERMINATED: "cancelled",
    WorkflowExecutionStatus.CANCELED: "cancelled",
}


async def load_known_agents(pool: Pool) -> list[str]:
    """Every agent that ever registered.

    Raises:
        RetryLater: PostgreSQL is unavailable.
    """
    with retry_later_if_unavailable():
        return [row["name"] for row in await pool.fetch(_SELECT_AGENT_NAMES)]


def report_approval_gauges(pool: Pool) -> LeaderDuty:
    """Approvals and parked compensations of all tenants. They end with the leader's term: one process reports them."""

    async def report(over: asyncio.Event) -> None:
        try:
            await make_repeating_duty(GAUGES_INTERVAL_S, lambda: _set_approval_gauges(pool))(over)
        finally:
            for gauge in _FLEET_GAUGES:
                gauge.set(0)

    return report


async def _set_approval_gauges(pool: Pool) -> None:
    row = await pool.fetchrow(_SELECT_APPROVAL_GAUGES)
    assert row is not None  # noqa: S101 - the function always gives one row
    metrics.APPROVALS_PENDING.set(row["pending"])
    metrics.APPROVAL_OLDEST.set(row["oldest_s"])
    metrics.APPROVALS_OVERDUE.set(row["overdue"])
    metrics.SAGA_PARKED.set(row["parked_orders"])


def make_reconciled_row_kinds(
    runs: RunActivities,
    actions: ActionActivities,
    orders: OrderActivities,
    pipelines: PipelineActivities,
    calls: GatedCallActivities,
) -> Mapping[str, ReconciledRowKind]:
    """How the reconciler starts and closes each kind of row."""

    async def close_run(row: UnfinishedRow, ended: WorkflowEnd) -> None:
        await calls.settle_calls(EndedTaskReference(tenant_id=row.tenant_id, run_id=row.id))
        await runs.close_run(
            CloseRun(
                run=RunKey(tenant_id=row.tenant_id, run_id=row.id),
                status=_run_status_of_ended_workflow(ended.status),
                error=_error_of_ended_workflow(ended),
            )
        )

    async def close_action(row: UnfinishedRow, ended: WorkflowEnd) -> None:
        await actions.close_lost_action(row.tenant_id, row.id, _error_of_ended_workflow(ended).message)

    async def close_order(row: UnfinishedRow, ended: WorkflowEnd) -> None:
        close = orders.undo_lost_order if ended.reason == WHY_ERASED else orders.close_lost_order
        await close(row.tenant_id, row.id, _error_of_ended_workflow(ended).message)

    async def close_task(row: UnfinishedRow, ended: WorkflowEnd) -> None:
        await calls.settle_calls(EndedTaskReference(tenant_id=row.tenant_id, task_id=row.id))
        key = PipelineReference(tenant_id=row.tenant_id, task_id=row.id)
        await pipelines.close_lost_pipeline(key, ended.status, _error_of_ended_workflow(ended))

    return {
        "run": ReconciledRowKind(_read_run_request, close_run, RUNS),
        "action": ReconciledRowKind(_make_request_reader(APPROVAL_WORKFLOW, ActionRequest), close_action, ACTIONS),
        "order": ReconciledRowKind(_make_request_reader(ORDER_WORKFLOW, OrderRequest), close_order, ORDERS),
        "task": ReconciledRowKind(_make_request_reader(PIPELINE_WORKFLOW, PipelineRequest), close_task, PIPELINES),
    }


def _make_request_reader(workflow: str, request: type[Any]) -> Callable[[str], StartableWorkflow]:
    return lambda stored: StartableWorkflow(workflow, from_json(stored, request))


def _read_run_request(stored: str) -> StartableWorkflow:
    """A question, or a run of an installed workflow."""
    request = read_run_request(stored)
    if isinstance(request, RAGRequest):
        return StartableWorkflow(RAG_WORKFLOW, request)
    return StartableWorkflow(request.workflow, request, request.task_queue)


def _run_status_of_ended_workflow(status: WorkflowExecutionStatus | None) -> RunStatus:
    return _RUN_STATUS_BY_WORKFLOW_STATUS.get(status, "error")


def _error_of_ended_workflow(ended: WorkflowEnd) -> ErrorRaised:
    if ended.reason == WHY_ERASED:
        return ErrorRaised(type="SessionErased", message=WHY_ERASED, where="workflow")
    if not ended.was_started:
        return ErrorRaised(
            type="WorkflowNotStarted", message=f"its workflow can't be started: {ended.reason}", where="workflow"
        )
    how = f"ended as {ended.status.name.lower()}" if ended.status else "is unknown to Temporal"
    reason = f": {ended.reason}" if ended.reason else ""
    return ErrorRaised(type="WorkflowEnded", message=f"its workflow {how}{reason}", where="workflow")
