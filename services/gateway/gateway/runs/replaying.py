"""Does recorded runs again: what a candidate gets of the recording, and who may be a candidate."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from flotilla.contracts.envelope import AgentEvent, from_builtins, from_json, to_json
from flotilla.contracts.errors import Conflict, Invalid, no_such
from flotilla.contracts.ids import new_id
from flotilla.contracts.requests import OPEN_RUN_STATUSES, RAGRequest
from flotilla.contracts.session_events import ToolCall, ToolResult, session_event_type
from flotilla.contracts.tasks import RecordedCall, Replay, Turn
from flotilla.encryption.tables import RUNS
from flotilla.eventstore.turns import load_earlier_turns
from flotilla.postgres import Connection, open_row, tenant_transaction
from gateway.idempotency import IdempotencyClaim
from gateway.runs import records
from gateway.schemas.replays import ReplayRequest
from gateway.schemas.runs import Run
from gateway.services import GatewayServices

MAX_RECORDING_BYTES = 400_000
"""Of the calls' results as JSON: they travel with the tasks."""
SESSION_PREFIX = "replay-"
_CALLED, _RETURNED = session_event_type("tool_call"), session_event_type("tool_result")
_QUESTION_STEPS = ("research", "write")
_SELECT_RECORDED_RUNS = (
    "SELECT run_id, session_id, status, request, first_seq FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2"
)
# Those of which an instance that was seen lately does not say that its effects can be blocked, or none was seen.
_NOT_REPLAYABLE = """
SELECT n FROM unnest($1::text[]) AS n WHERE (SELECT bool_and(a.replayable) FROM flotilla_ops.agents AS a
    WHERE a.name = n AND a.last_seen > now() - interval '2 minutes') IS NOT TRUE
"""


async def start(services: GatewayServices, run_id: str, body: ReplayRequest, claim: IdempotencyClaim) -> Run:
    """Start the recorded run again in a session of its own, with what `body` changes, or return the one that the same
    request started.

    Raises:
        NotFound: no such run, or the caller may not see it.
        Conflict: it is not over.
        Invalid: it is no question, its recording is too large, or an agent is not replayable.
        FlotillaError: as `records.store_run`.
    """
    caller = claim.principal
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        recorded = await _recorded(connection, caller.tenant_id, run_id)
        request = from_json(recorded["request"], RAGRequest)
        await _check_agents(connection, request.steps or _QUESTION_STEPS, body.agents)
    first_seq = recorded["first_seq"] or 1
    session_id = recorded["session_id"]
    history = request.history or await load_earlier_turns(
        services.pool, caller.tenant_id, session_id, before_seq=first_seq
    )
    events = services.event_store(caller.tenant_id).stream(session_id, first_seq)
    replay = _replay(run_id, body, await _calls_of(events, run_id), history)
    again = RAGRequest(
        query=request.query,
        user_id=caller.subject,
        session_id=f"{SESSION_PREFIX}{new_id()}",
        tenant_id=caller.tenant_id,
        run_id=new_id(),
        steps=request.steps,
        top_k=request.top_k,
        history=history,
        replay=replay,
    )
    started = await records.store_run(
        services.pool, again, claim, services.access_for_new_session(caller), services.open_work
    )
    if started.start is not None:
        await services.temporal.start_workflow(started.start)
    return started.run


async def _recorded(connection: Connection, tenant_id: str, run_id: str) -> Mapping[str, Any]:
    row = await connection.fetchrow(_SELECT_RECORDED_RUNS, tenant_id, run_id)
    if row is None:
        raise no_such("run", run_id)
    if row["status"] in OPEN_RUN_STATUSES:
        raise Conflict(f"run {run_id} is {row['status']}: wait for its end, then replay it")
    if "workflow" in from_json(row["request"], dict):
        raise Invalid(f"run {run_id} is of a workflow: only questions can be replayed")
    return await open_row(connection, tenant_id, RUNS, row)


async def _check_agents(connection: Connection, steps: Sequence[str], instead: Mapping[str, str]) -> None:
    if unused := sorted(set(instead) - set(steps)):
        raise Invalid(f"agents: the recorded run has no {unused[0]}; it has {', '.join(steps)}")
    asked = [instead.get(step, step) for step in steps]
    refused = [row["n"] for row in await connection.fetch(_NOT_REPLAYABLE, asked)]
    if refused:
        raise Invalid(
            f"agent {refused[0]} is not there, or does not say that it is replayable: its effects could not be blocked "
            "(Agent(..., replayable=True), in all of its instances)"
        )


async def _calls_of(events: AsyncIterator[AgentEvent], run_id: str) -> list[RecordedCall]:
    """The calls that the run made, in order, each with its end. Results that the log has only in part are left out."""
    begun: dict[str, ToolCall] = {}
    ended = []
    async for event in events:
        if event.runid != run_id:
            continue
        if event.type == _CALLED:
            call = from_builtins(event.data, ToolCall)
            begun[call.call_id] = call
        elif event.type == _RETURNED:
            result = from_builtins(event.data, ToolResult)
            if result.call_id in begun and not _is_partial(result):
                ended.append(_recorded_call(begun[result.call_id], result))
        elif event.data.get("change") == "run_finished":
            break
    return ended


def _recorded_call(call: ToolCall, result: ToolResult) -> RecordedCall:
    error = None if result.ok else result.error or "failed"
    return RecordedCall(agent=call.agent, tool=call.tool, args=call.args, result=result.result, error=error)


def _is_partial(result: ToolResult) -> bool:
    return isinstance(result.result, dict) and result.result.get("truncated") is True and "sha256" in result.result


def _replay(run_id: str, body: ReplayRequest, calls: list[RecordedCall], history: list[Turn]) -> Replay:
    size = len(to_json(calls))
    if size > MAX_RECORDING_BYTES:
        raise Invalid(f"run {run_id}: its recorded calls have {size} bytes, {MAX_RECORDING_BYTES} can be replayed")
    return Replay(
        of_run=run_id,
        model=body.model,
        prompts=dict(body.prompts),
        agents=dict(body.agents),
        index=body.index,
        calls=calls,
        history=history,
    )
