"""Runs that wait for their turn: rows of `flotilla.runs`, written under their session's lock.

The worker opens the next one in the transaction that ends the active run.
"""

from dataclasses import dataclass

from flotilla.contracts.event_builders import run_queued_event, state_change
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.requests import IfActive
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.eventstore.sessions import get_session
from flotilla.postgres import Connection
from gateway.auth.principal import Principal
from gateway.names import SOURCE
from gateway.problems import TooMany

MAX_QUEUED = 1000
"""How many runs may wait in one session."""
RETRY_S = 5.0
_SELECT_AHEAD_RUNS = """
SELECT a.run_id AS active, a.workflow_id,
    (SELECT count(*) FROM flotilla.runs WHERE tenant_id = $1 AND session_id = $2 AND status = 'queued') AS queued
FROM (SELECT) AS one LEFT JOIN flotilla.runs AS a
    ON a.tenant_id = $1 AND a.session_id = $2 AND a.status IN ('pending', 'running', 'interrupted')
"""


@dataclass(frozen=True, slots=True)
class RunsAhead:
    """What a run has to wait for."""

    active: str | None
    """The active run's id; None between the end of one and the opening of the next."""
    workflow_id: str | None
    queued: int


async def find_runs_ahead(connection: Connection, tenant_id: str, session_id: str) -> RunsAhead | None:
    """Take the session's lock, and return what is ahead of a new run; None when it can begin.

    Raises:
        TooMany: 1,000 runs wait already.
    """
    await get_session(connection, tenant_id, session_id, lock=True)
    row = await connection.fetchrow(_SELECT_AHEAD_RUNS, tenant_id, session_id)
    assert row is not None  # noqa: S101 - the statement always gives one row
    ahead = RunsAhead(row["active"], row["workflow_id"], row["queued"])
    if ahead.queued >= MAX_QUEUED:
        raise TooMany(f"session {session_id} has {ahead.queued} runs that wait, {MAX_QUEUED} are allowed", RETRY_S)
    return ahead if ahead.active or ahead.queued else None


def run_queued_events(run_id: str, if_active: IfActive, ahead: RunsAhead, caller: Principal) -> list[AgentStateEvent]:
    """Return the events that record that the run waits, and that it asks the active one to end."""
    events = [run_queued_event(run_id, if_active, caller.by, SOURCE)]
    if if_active != "enqueue" and ahead.active is not None:
        details: JsonObject = {"run_id": ahead.active, **caller.by, "for_run_id": run_id, "if_active": if_active}
        events.append(state_change("run_cancel_requested", details, SOURCE, run_id=ahead.active))
    return events
