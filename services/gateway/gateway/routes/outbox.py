"""The outbox: events on their way to the permanent log."""

import structlog

from flotilla.eventstore.sessions import check_may_write_session
from flotilla.outbox import parked
from flotilla.postgres import tenant_transaction
from gateway.auth.principal import OPERATORS
from gateway.guard import allow, guarded_router
from gateway.routes.documented import documented_errors
from gateway.schemas.common import SessionId
from gateway.schemas.outbox import OutboxRedriveBody, OutboxRedriven
from gateway.services import Caller, Wired

router = guarded_router("outbox")
log = structlog.get_logger(__name__)


@router.get("/v1/outbox", response_model=parked.OutboxStatus, responses=documented_errors())
@allow(OPERATORS)
async def get_outbox(services: Wired, caller: Caller) -> parked.OutboxStatus:
    """The backlog, how old its oldest event is, and which sessions are parked."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await parked.load_outbox_status(connection)


@router.post(
    "/v1/outbox/{session_id}/redrive", response_model=OutboxRedriven, responses=documented_errors(404, 413, 415)
)
@allow(OPERATORS)
async def redrive(
    services: Wired, caller: Caller, session_id: SessionId, body: OutboxRedriveBody | None = None
) -> OutboxRedriven:
    """Let a parked session go on, with the same event or with a tombstone in its place."""
    tombstone = body is not None and body.tombstone
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await check_may_write_session(connection, caller.tenant_id, session_id)
        waiting = await parked.redrive_parked_session(connection, session_id, tombstone=tombstone)
    log.info("outbox_redriven", session_id=session_id, tombstone=tombstone, by=caller.subject, tenant=caller.tenant_id)
    return OutboxRedriven(session_id=session_id, waiting=waiting)
