"""Asks runs to stop."""

from flotilla.contracts.errors import NotFound
from flotilla.contracts.requests import OPEN_RUN_STATUSES
from gateway.auth.principal import Principal
from gateway.runs import records
from gateway.schemas.runs import CancelAccepted, Run
from gateway.services import GatewayServices


async def cancel_run_and_agents(services: GatewayServices, caller: Principal, run_id: str) -> CancelAccepted:
    """Ask a run to stop, and its agents with it.

    Raises:
        NotFound: the tenant has no such run.
        Conflict: it ended otherwise.
    """
    run = await records.get_run(services.pool, caller.tenant_id, run_id)
    if run.status not in OPEN_RUN_STATUSES:
        return _already(run)
    await records.record_run_cancel_request(services.pool, run, caller)
    if run.status == "queued" and await records.cancel_unstarted(services.pool, run, caller.tenant_id):
        return CancelAccepted(run_id=run_id, status="cancelled")
    try:
        await services.temporal.cancel_workflow(run.workflow_id)
    except NotFound:
        return await _cancel_without_workflow(services, caller, run_id)
    return CancelAccepted(run_id=run_id, status=run.status)


async def _cancel_without_workflow(services: GatewayServices, caller: Principal, run_id: str) -> CancelAccepted:
    run = await records.get_run(services.pool, caller.tenant_id, run_id)
    if run.status == "pending" and await records.cancel_unstarted(services.pool, run, caller.tenant_id):
        return CancelAccepted(run_id=run_id, status="cancelled")
    run = await records.get_run(services.pool, caller.tenant_id, run_id)
    return CancelAccepted(run_id=run_id, status=run.status) if run.status in OPEN_RUN_STATUSES else _already(run)


def _already(run: Run) -> CancelAccepted:
    if run.status != "cancelled":
        raise records.over(run)
    return CancelAccepted(run_id=run.run_id, status=run.status)
