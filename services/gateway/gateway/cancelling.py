"""Requests to cancel something, as the session that it belongs to records them."""

from typing import Literal

from flotilla.contracts.event_builders import state_change
from flotilla.contracts.json_types import JsonObject
from flotilla.outbox import append
from flotilla.postgres import Connection
from gateway.auth.principal import Principal
from gateway.names import SOURCE


async def record_cancel_request(
    connection: Connection, caller: Principal, session_id: str, kind: Literal["run", "task", "action"], thing_id: str
) -> None:
    """Record who asked for a run, a task or an action to be cancelled."""
    details: JsonObject = {f"{kind}_id": thing_id, **caller.by}
    run_id = thing_id if kind == "run" else None
    asked = state_change(f"{kind}_cancel_requested", details, SOURCE, run_id=run_id)
    await append(connection, caller.tenant_id, session_id, [asked])
