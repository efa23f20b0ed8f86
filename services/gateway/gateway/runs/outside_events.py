"""Events from outside for a run: stored with the session's event in one transaction, then signalled to its workflow.

One that can't be signalled is delivered by the worker's leader; the workflow knows a second signal by the event's id.
"""

import asyncpg
import structlog
from temporalio.service import RPCError

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Conflict, Invalid, RetryLater
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import QUESTION
from flotilla.contracts.requests import MAX_RUN_EVENTS, OPEN_RUN_STATUSES, RUN_EVENT_SIGNAL, OutsideEvent
from flotilla.encryption.tables import RUN_EVENTS
from flotilla.outbox import append
from flotilla.postgres import Connection, seal_columns, tenant_transaction
from gateway.auth.principal import Principal
from gateway.idempotency import IdempotencyClaim
from gateway.names import SOURCE
from gateway.runs.records import run_not_found
from gateway.services import GatewayServices
from gateway.temporal import RPC_TIMEOUT

_SELECT_RUN_EVENTS = """
SELECT session_id, workflow, workflow_id, status,
    (SELECT count(*) FROM flotilla.run_events AS e WHERE e.tenant_id = r.tenant_id AND e.run_id = r.run_id) AS events
FROM flotilla.runs AS r WHERE tenant_id = $1 AND run_id = $2
"""
_INSERT_RUN_EVENTS = """
INSERT INTO flotilla.run_events (tenant_id, run_id, event_id, name, data, sent_by)
VALUES ($1, $2, $3, $4, $5::jsonb, $6)
"""
_MARK_RUN_EVENTS_DELIVERED = """
UPDATE flotilla.run_events SET delivered_at = now() WHERE tenant_id = $1 AND run_id = $2 AND event_id = $3
"""
log = structlog.get_logger(__name__)


async def store_and_signal_event(
    services: GatewayServices, caller: Principal, run_id: str, event: OutsideEvent, claim: IdempotencyClaim
) -> str:
    """Store the event and signal it; return its id: that of the first one where the request is a repetition.

    Raises:
        NotFound: the tenant has no such run.
        Conflict: the run is over, or has had 1,000 events.
        Invalid: a question takes no events.
        IdempotencyConflict: the key was used for another request.
    """
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        earlier = await claim.take(connection, event.event_id)
        if earlier is not None:
            return earlier
        run = await _open_run(connection, caller.tenant_id, run_id)
        await store_event(connection, caller, run["session_id"], run_id, event)
        details: JsonObject = {
            "run_id": run_id,
            "event_id": event.event_id,
            "name": event.name,
            "data": event.data,
            **caller.by,
        }
        received = state_change("run_event_received", details, SOURCE, run_id=run_id)
        await append(connection, caller.tenant_id, run["session_id"], [received])
        # Who ends the run appends, too: with the session's lock it has either ended, or ends after this event.
        await _open_run(connection, caller.tenant_id, run_id)
    await signal_event(services, caller.tenant_id, run_id, run["workflow_id"], event)
    return event.event_id


async def store_event(
    connection: Connection, caller: Principal, session_id: str, run_id: str, event: OutsideEvent
) -> None:
    """Store an event, so that it is signalled whatever happens."""
    stored = await seal_columns(
        connection, caller.tenant_id, session_id, RUN_EVENTS, event.event_id, data=to_json(event.data).decode()
    )
    of_event = (event.event_id, event.name, stored["data"])
    await connection.execute(_INSERT_RUN_EVENTS, caller.tenant_id, run_id, *of_event, caller.subject)


async def _open_run(connection: Connection, tenant_id: str, run_id: str) -> asyncpg.Record:
    run = await connection.fetchrow(_SELECT_RUN_EVENTS, tenant_id, run_id)
    if run is None:
        raise run_not_found(run_id)
    if run["workflow"] == QUESTION:
        raise Invalid(f"run {run_id} answers a question: only runs of workflows take events")
    if run["status"] not in OPEN_RUN_STATUSES:
        raise Conflict(f"run {run_id} is over: {run['status']}")
    if run["events"] > MAX_RUN_EVENTS:
        raise Conflict(f"run {run_id} has had {MAX_RUN_EVENTS} events: it takes no more")
    return run


async def signal_event(
    services: GatewayServices, tenant_id: str, run_id: str, workflow_id: str, event: OutsideEvent
) -> None:
    """Signal a stored event; one that Temporal does not take now is signalled by the worker's leader."""
    try:
        handle = await services.temporal.workflow_handle(workflow_id)
        await handle.signal(RUN_EVENT_SIGNAL, event, rpc_timeout=RPC_TIMEOUT)
    except (RetryLater, RPCError) as error:
        log.warning("run_event_not_signalled", run_id=run_id, event_id=event.event_id, error=str(error))
        return
    async with tenant_transaction(services.pool, tenant_id) as connection:
        await connection.execute(_MARK_RUN_EVENTS_DELIVERED, tenant_id, run_id, event.event_id)
