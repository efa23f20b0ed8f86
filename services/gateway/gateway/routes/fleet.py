"""The fleet at a glance."""

from gateway.auth.principal import EVERYONE
from gateway.fleet.history import load_fleet_history
from gateway.fleet.overview import load_fleet_overview
from gateway.guard import allow, guarded_router
from gateway.routes.documented import documented_errors
from gateway.schemas.overview import Fleet, FleetHistory
from gateway.services import Caller, Wired

router = guarded_router("fleet")


@router.get("/v1/fleet", response_model=Fleet, responses=documented_errors())
@allow(EVERYONE)
async def get_fleet(services: Wired, caller: Caller) -> Fleet:
    """Everything that may pile up: streams, outbox, audit, approvals, orders."""
    return await load_fleet_overview(services.pool, services.redis, services.kafka_log, caller.tenant_id)


@router.get("/v1/fleet/history", response_model=FleetHistory, responses=documented_errors())
@allow(EVERYONE)
async def get_history(services: Wired, caller: Caller) -> FleetHistory:
    """The last hour in steps of 15 s, as this replica saw it."""
    return await load_fleet_history(services.pool, tuple(services.samples), caller.tenant_id)
