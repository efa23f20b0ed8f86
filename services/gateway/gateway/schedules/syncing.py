"""Brings Temporal to what a schedule's row says, at once where Temporal answers."""

import structlog
from temporalio.client import ScheduleOverlapPolicy
from temporalio.service import RPCError

from flotilla.contracts.errors import NotFound, RetryLater
from flotilla.schedules import RPC_TIMEOUT, ScheduleRefused, TemporalSchedules
from gateway.schedules import records
from gateway.schemas.schedules import Schedule
from gateway.services import GatewayServices
from gateway.temporal import error_from_temporal

log = structlog.get_logger(__name__)


async def sync_to_temporal(services: GatewayServices, tenant_id: str, schedule_id: str, generation: int) -> bool:
    """Apply the change that is `generation`, or a newer one, in Temporal; return False when it is not there yet: the
    worker's leader applies it then.

    Raises:
        ScheduleRefused: Temporal does not take this change.
    """
    try:
        schedules = await _schedules(services)
        await schedules.sync(tenant_id, schedule_id)
    except ScheduleRefused as refused:
        if refused.generation > generation:  # another change, which its own request takes back
            return False
        raise
    except (RPCError, RetryLater) as error:
        log.warning("schedule_not_synced", schedule_id=schedule_id, error=str(error))
        return False
    return True


async def with_next_starts(services: GatewayServices, tenant_id: str, schedule_id: str) -> Schedule:
    """Return the schedule with its next five starts; without them while Temporal can't say.

    Raises:
        NotFound: the caller sees no such schedule.
    """
    stored = await records.get(services.pool, tenant_id, schedule_id)
    if not stored.is_synced:
        return stored.shown
    try:
        starts = await (await _schedules(services)).next_starts(stored.temporal_id)
    except (RPCError, RetryLater) as error:
        log.warning("schedule_not_described", schedule_id=schedule_id, error=str(error))
        return stored.shown
    return stored.shown.model_copy(update={"next_starts": starts})


async def start_scheduled_run_now(services: GatewayServices, tenant_id: str, schedule_id: str) -> None:
    """Start a run now, whatever else the schedule has under way.

    Raises:
        NotFound: the caller sees no such schedule.
        RetryLater: Temporal does not answer, or does not have the schedule yet.
    """
    stored = await records.get(services.pool, tenant_id, schedule_id)
    handle = (await _schedules(services)).handle(stored.temporal_id)
    try:
        await handle.trigger(overlap=ScheduleOverlapPolicy.ALLOW_ALL, rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        reason = error_from_temporal(error, stored.temporal_id)
        if isinstance(reason, NotFound):
            raise RetryLater(f"Temporal does not have schedule {schedule_id} yet: try again in a moment") from error
        raise reason from error


async def _schedules(services: GatewayServices) -> TemporalSchedules:
    return TemporalSchedules(services.pool, await services.temporal.client(), services.temporal.task_queue)
