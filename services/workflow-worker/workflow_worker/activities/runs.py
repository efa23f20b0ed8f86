"""The run's row and its session events, always in one transaction.

Who writes what: the gateway inserts session, run (status `pending`, `request` = the `RAGRequest` as JSON), the user's
`message` and `state_change{run_started}` in one transaction, then starts `RagAgentWorkflow(RAGRequest)` with id
`run-<run_id>`. Everything after that is written here. A workflow started without the gateway gets its rows from
`begin_run`, with the same events.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from flotilla.bus.live import LiveRunWriter
from flotilla.config import OpenWorkLimitSettings
from flotilla.contracts.envelope import from_builtins, from_json, to_json
from flotilla.contracts.errors import Refused, Undecodable
from flotilla.contracts.event_builders import run_finished_event, session_event
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.names import QUESTION, run_stream, workflow_source
from flotilla.contracts.requests import RAGRequest, RAGResponse, RunStatus, WorkflowRequest
from flotilla.contracts.session_events import AgentStateEvent, ErrorRaised, Message
from flotilla.contracts.tasks import WriteResult
from flotilla.contracts.values import to_storable
from flotilla.encryption.tables import AGENT_TASKS, INTERACTIONS, RUNS
from flotilla.eventstore.turns import load_earlier_turns
from flotilla.outbox import append
from flotilla.postgres import UNSTORABLE, Connection, Pool, open_row, seal_columns, tenant_transaction
from flotilla.telemetry import metrics
from flotilla.workflows.calls.custom import BEGIN_WORKFLOW, FINISH_WORKFLOW, FinishedWorkflow
from flotilla.workflows.calls.runs import (
    BEGIN_RUN,
    CLOSE_RUN,
    PAUSE_RUN,
    SAVE_TO_DATABASE,
    BegunRun,
    CloseRun,
    PauseRun,
    RunKey,
    SaveAnswer,
)
from workflow_worker.activities.questions import close_questions
from workflow_worker.adopted_runs import adopt_child_run, run_closed_error
from workflow_worker.delegates import load_agent_time_limits
from workflow_worker.delegations import close_open_hops_of_run
from workflow_worker.notices import queue_run_notice
from workflow_worker.queued_runs import open_next_run
from workflow_worker.routes import load_routed_versions_of_run

WRITER_AGENT = "write"
"""The agent whose results are answers, or wrong."""
log = structlog.get_logger(__name__)

# The run is being worked on from now.
_MARK_RUN_RUNNING = """
UPDATE flotilla.runs SET status = 'running', started_at = coalesce(started_at, now())
WHERE tenant_id = $1 AND run_id = $2 AND status IN ('pending', 'running', 'interrupted')
RETURNING live_key
"""
# With an action's id the run pauses only if people are asked about that action. It goes on unless a question is open.
_SET_RUN_INTERRUPTED = """
UPDATE flotilla.runs SET status = CASE WHEN $3 THEN 'interrupted' ELSE 'running' END
WHERE tenant_id = $1 AND run_id = $2 AND status = CASE WHEN $3 THEN 'running' ELSE 'interrupted' END
AND (NOT $3 OR $4 = '' OR EXISTS (
    SELECT FROM flotilla.approvals AS a WHERE a.tenant_id = $1 AND a.approval_id = $4 AND a.status = 'pending'))
AND ($3 OR NOT EXISTS (
    SELECT FROM flotilla.questions AS q WHERE q.tenant_id = $1 AND q.run_id = $2 AND q.status = 'open'))
RETURNING $3
"""
_SELECT_RUN_STATUS = "SELECT run_id, session_id, status, result FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2"
# Ends the run, unless it has ended. The row lock makes a second attempt wait and then find nothing to do.
_FINISH_RUN = """
UPDATE flotilla.runs SET status = $3, finished_at = now()
WHERE tenant_id = $1 AND run_id = $2 AND status IN ('pending', 'running', 'interrupted')
RETURNING run_id, session_id, user_id, query, created_at, finished_at, live_key, workflow,
    EXISTS (SELECT FROM flotilla.questions AS q WHERE q.tenant_id = $1 AND q.run_id = $2 AND q.status = 'open') AS asks
"""
# What the run came to: encrypted with the key of the session that the statement before names.
_STORE_RUN_END = "UPDATE flotilla.runs SET result = $3, error = $4, output = $5 WHERE tenant_id = $1 AND run_id = $2"
_SELECT_TASK_RESULT = """
SELECT task_id, session_id, result, agent FROM flotilla.agent_tasks
WHERE tenant_id = $1 AND task_id = $2 AND status = 'done'
"""
_INSERT_INTERACTION = """
INSERT INTO flotilla.interactions
    (tenant_id, interaction_id, user_id, session_id, run_id, query, answer, sources, message_seq)
VALUES ($1, $2, $3, $4, $2, $5, $6, $7, $8)
"""


@dataclass(frozen=True, slots=True)
class _RunEnd:
    """How a run ends: with an answer, with something else that it returned, or without."""

    status: RunStatus
    response: RAGResponse | None = None
    output: JsonValue = None
    error: ErrorRaised | None = None


@dataclass(frozen=True, slots=True)
class _FinishedRun:
    session_id: str
    duration_s: float
    live_key: str


class RunActivities:
    """The activities that keep `flotilla.runs`."""

    def __init__(self, pool: Pool, feed: LiveRunWriter, limits: OpenWorkLimitSettings | None = None) -> None:
        """`limits` are those that the runs of schedules and of other runs keep."""
        self._pool = pool
        self._feed = feed
        self._limits = limits or OpenWorkLimitSettings()

    @activity.defn(name=BEGIN_RUN)
    async def begin_run(self, request: RAGRequest) -> BegunRun:
        """Marks the run as running and returns the earlier turns: those of the request, else of the session.

        Idempotency key: (tenant, run id).

        Raises:
            ApplicationError: `RunClosed`: the run has ended. `RunInProgress`: the session has another active run.
        """
        return await self._begin_or_adopt_run(request)

    @activity.defn(name=BEGIN_WORKFLOW)
    async def begin_workflow(self, request: WorkflowRequest) -> BegunRun:
        """The same for a run of an installed workflow."""
        return await self._begin_or_adopt_run(request)

    async def _begin_or_adopt_run(self, request: RAGRequest | WorkflowRequest) -> BegunRun:
        try:
            async with tenant_transaction(self._pool, request.tenant_id) as connection:
                live_key = await connection.fetchval(_MARK_RUN_RUNNING, request.tenant_id, request.run_id)
                if live_key is None:
                    live_key = await adopt_child_run(connection, request, activity.info().workflow_id, self._limits)
                limits_s = await load_agent_time_limits(connection)
        except asyncpg.UniqueViolationError as error:
            raise ApplicationError(
                f"session {request.session_id} has another active run", type="RunInProgress", non_retryable=True
            ) from error
        if live_key is None:
            raise run_closed_error(request.run_id, "queued")
        given = request.history if isinstance(request, RAGRequest) else []
        history = given or await load_earlier_turns(self._pool, request.tenant_id, request.session_id)
        return BegunRun(history=history, limits_s=limits_s, live=run_stream(request.run_id, live_key))

    @activity.defn(name=PAUSE_RUN)
    async def pause_run(self, pause: PauseRun) -> None:
        """Shows whether the run waits for people. Idempotency key: (tenant, run id)."""
        async with tenant_transaction(self._pool, pause.run.tenant_id) as connection:
            pauses = await connection.fetchval(
                _SET_RUN_INTERRUPTED, pause.run.tenant_id, pause.run.run_id, pause.paused, pause.action_id
            )
            if pauses:
                await queue_run_notice(connection, pause.run.tenant_id, pause.run.run_id, "run.interrupted")

    @activity.defn(name=SAVE_TO_DATABASE)
    async def save_to_database(self, answer: SaveAnswer) -> RAGResponse | None:
        """Makes a task's result the run's answer: interaction, run row and session events, all or nothing.

        The result of an agent that writes no answers is the run's output; then None is returned. Idempotency key:
        (tenant, run id); repeated after success it gives the stored answer.

        Raises:
            ApplicationError: `RunClosed`: the run ended otherwise. `Undecodable`, `Invalid`: it is not an answer.
        """
        try:
            async with tenant_transaction(self._pool, answer.run.tenant_id) as connection:
                end = await _run_end_from_task_result(connection, answer)
                finished = await _finish_run_row(connection, answer.run, end)
        except (Refused, Undecodable, *UNSTORABLE) as error:
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error
        if finished is None:
            return await self._load_stored_answer(answer.run)
        await self._announce_run_end(answer.run, "success", finished)
        return end.response

    @activity.defn(name=FINISH_WORKFLOW)
    async def finish_workflow(self, end: FinishedWorkflow) -> None:
        """Ends a run with what its workflow returned; does nothing if it has ended. Idempotency key: (tenant, run id).

        Raises:
            ApplicationError: `RunClosed`: the run ended otherwise. `Invalid`: no store holds what it returned.
        """
        try:
            async with tenant_transaction(self._pool, end.run.tenant_id) as connection:
                finished = await _finish_run_row(
                    connection, end.run, _RunEnd("success", output=to_storable(end.output).value)
                )
        except (Refused, *UNSTORABLE) as error:
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error
        if finished is None:
            await self._load_stored_answer(end.run)
        else:
            await self._announce_run_end(end.run, "success", finished)

    @activity.defn(name=CLOSE_RUN)
    async def close_run(self, end: CloseRun) -> None:
        """Ends a run without an answer; does nothing if it has ended. Idempotency key: (tenant, run id)."""
        async with tenant_transaction(self._pool, end.run.tenant_id) as connection:
            finished = await _finish_run_row(connection, end.run, _RunEnd(end.status, error=end.error))
        if finished is not None:
            await self._announce_run_end(end.run, end.status, finished)

    async def _load_stored_answer(self, run: RunKey) -> RAGResponse | None:
        async with tenant_transaction(self._pool, run.tenant_id) as connection:
            row = await connection.fetchrow(_SELECT_RUN_STATUS, run.tenant_id, run.run_id)
            if row is None or row["status"] != "success":
                raise run_closed_error(run.run_id, row["status"] if row else "unknown")
            result = (await open_row(connection, run.tenant_id, RUNS, row))["result"]
        return from_json(result, RAGResponse) if result else None

    async def _announce_run_end(self, run: RunKey, status: RunStatus, finished: _FinishedRun) -> None:
        metrics.RUNS.labels(status).inc()
        metrics.RUN_DURATION.observe(finished.duration_s)
        log.info("run_finished", run_id=run.run_id, session_id=finished.session_id, status=status)
        await self._feed.write_run_ended(run_stream(run.run_id, finished.live_key), status)


async def _run_end_from_task_result(connection: Connection, answer: SaveAnswer) -> _RunEnd:
    """The answer that the task's result is, or the output where its agent writes no answers."""
    row = await connection.fetchrow(_SELECT_TASK_RESULT, answer.run.tenant_id, answer.task_id)
    if row is None or row["result"] is None:
        raise ApplicationError(f"task {answer.task_id} has no stored result", type="NotFound", non_retryable=True)
    opened = await open_row(connection, answer.run.tenant_id, AGENT_TASKS, row)
    result = from_json(opened["result"], dict)
    try:
        written = from_builtins(result, WriteResult)
    except Undecodable:
        if row["agent"] == WRITER_AGENT:
            raise
        return _RunEnd("success", output=result)
    response = RAGResponse(
        answer=written.answer,
        sources=written.sources,
        confidence=written.confidence,
        confidence_basis=written.confidence_basis,
        model=written.model,
        usage=written.usage,
        finish_reason=written.finish_reason,
        searched_for=written.searched_for,
        abstained=written.abstained,
        statements=written.statements,
        dropped_citations=written.dropped_citations,
        features=written.features,
    )
    return _RunEnd("success", response=response)


async def _finish_run_row(connection: Connection, run: RunKey, end: _RunEnd) -> _FinishedRun | None:
    row = await connection.fetchrow(_FINISH_RUN, run.tenant_id, run.run_id, end.status)
    if row is None:
        return None
    stored = await seal_columns(
        connection,
        run.tenant_id,
        row["session_id"],
        RUNS,
        run.run_id,
        result=_to_jsonb(end.response),
        error=_to_jsonb(end.error),
        output=_to_jsonb(end.output),
    )
    await connection.execute(
        _STORE_RUN_END, run.tenant_id, run.run_id, stored["result"], stored["error"], stored["output"]
    )
    if row["asks"]:
        await close_questions(connection, run, "cancelled")
    if end.status != "success":
        await close_open_hops_of_run(connection, run.tenant_id, run.run_id)
    # The steps of other workflows say it themselves.
    is_question = row["workflow"] == QUESTION
    versions = await load_routed_versions_of_run(connection, run.tenant_id, run.run_id) if is_question else {}
    events = _run_closing_events(run, end, workflow_source(row["workflow"]), versions)
    appended = await append(connection, run.tenant_id, row["session_id"], events)
    if end.response is not None:
        await _insert_interaction(connection, run, row, end.response, appended.first_seq)
    await queue_run_notice(connection, run.tenant_id, run.run_id, "run.finished")
    await open_next_run(connection, run.tenant_id, row["session_id"])
    return _FinishedRun(row["session_id"], _seconds_since(row["created_at"]), row["live_key"])


def _to_jsonb(value: object) -> str | None:
    return None if value is None else to_json(value).decode()


def _run_closing_events(run: RunKey, end: _RunEnd, source: str, versions: JsonObject) -> list[AgentStateEvent]:
    events = []
    if end.response is not None:
        message = Message(role="assistant", content=end.response.answer, sources=end.response.sources)
        events.append(session_event(message, source, run_id=run.run_id))
    if end.error is not None:
        events.append(session_event(end.error, source, run_id=run.run_id))
    return [*events, run_finished_event(run.run_id, end.status, source, end.output, versions)]


async def _insert_interaction(
    connection: Connection, run: RunKey, row: asyncpg.Record, response: RAGResponse, message_seq: int
) -> None:
    asked = await open_row(connection, run.tenant_id, RUNS, row)
    stored = await seal_columns(
        connection,
        run.tenant_id,
        row["session_id"],
        INTERACTIONS,
        run.run_id,
        query=asked["query"],
        answer=response.answer,
        sources=to_json(response.sources).decode(),
    )
    await connection.execute(
        _INSERT_INTERACTION,
        run.tenant_id,
        run.run_id,
        row["user_id"],
        row["session_id"],
        stored["query"],
        stored["answer"],
        stored["sources"],
        message_seq,
    )


def _seconds_since(moment: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())
