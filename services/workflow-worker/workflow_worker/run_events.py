"""Signals the events from outside that the gateway stored and could not signal."""

import json

import structlog
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from flotilla.contracts.requests import RUN_EVENT_SIGNAL, OutsideEvent
from flotilla.encryption.tables import RUN_EVENTS
from flotilla.postgres import Pool, open_stored_row, tenant_transaction

_SELECT_UNDELIVERED_EVENTS = "SELECT * FROM flotilla.undelivered_run_events(interval '5 seconds', 50)"
_MARK_EVENT_DELIVERED = """
UPDATE flotilla.run_events SET delivered_at = now() WHERE tenant_id = $1 AND run_id = $2 AND event_id = $3
"""
log = structlog.get_logger(__name__)


async def signal_undelivered_run_events(pool: Pool, client: Client) -> None:
    """Signal what waits, oldest first; what Temporal does not take now waits for the next round."""
    for row in await pool.fetch(_SELECT_UNDELIVERED_EVENTS):
        opened = await open_stored_row(pool, row["tenant_id"], RUN_EVENTS, row)
        event = OutsideEvent(event_id=row["event_id"], name=row["name"], data=json.loads(opened["data"]))
        try:
            await client.get_workflow_handle(row["workflow_id"]).signal(RUN_EVENT_SIGNAL, event)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:  # one whose workflow has not begun: it is started soon
                raise
            continue
        async with tenant_transaction(pool, row["tenant_id"]) as connection:
            await connection.execute(_MARK_EVENT_DELIVERED, row["tenant_id"], row["run_id"], row["event_id"])
        log.info("run_event_delivered", run_id=row["run_id"], event_id=row["event_id"])
