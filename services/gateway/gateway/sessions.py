"""Sessions that something else opens on its way: a run, an action, an order."""

from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import AgentStateEvent, StateChange
from flotilla.postgres import Connection
from gateway.names import SOURCE

# The session, made if it is new; an existing one stays as it is.
_OPEN = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""


async def ensure_session(connection: Connection, tenant_id: str, session_id: str, user_id: str) -> None:
    """Opens the session if it is new."""
    await connection.execute(_OPEN, tenant_id, session_id, user_id)


def changed(
    change: str, details: JsonObject, *, status: str | None = None, run_id: str | None = None
) -> AgentStateEvent:
    """A `state_change` that the gateway makes."""
    data = StateChange(change=change, status=status, details=details)
    return AgentStateEvent(kind="state_change", data=to_builtins(data), source=SOURCE, run_id=run_id)
