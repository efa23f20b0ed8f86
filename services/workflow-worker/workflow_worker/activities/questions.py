"""Questions to people: into the inbox, and what came of them. The answer itself is the gateway's to write."""

from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from temporalio import activity
from temporalio.exceptions import ApplicationError

from flotilla.contracts.envelope import decode_event, to_json
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import workflow_source
from flotilla.contracts.questions import QUESTION_CHANGE, Answered, Asked, QuestionStatus
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.encryption.tables import QUESTIONS
from flotilla.eventstore.log import SessionLog
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, seal_columns, tenant_transaction
from flotilla.workflows.calls.questions import ASK_QUESTION, SETTLE_QUESTION, AskQuestion, SettleQuestion
from flotilla.workflows.calls.runs import RunKey
from workflow_worker.notices import queue_run_notice

GATEWAY_SOURCE = "/gateway"
# Holds the run: what ends it closes its questions first, and a run that is over asks nobody.
_SELECT_RUN = """
SELECT session_id, workflow_id, workflow, status FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2
FOR NO KEY UPDATE
"""
_INSERT_QUESTION = """
INSERT INTO flotilla.questions
    (tenant_id, question_id, session_id, run_id, workflow_id, question, answer_schema, roles, deadline_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING RETURNING question_id
"""
_SELECT_QUESTION = """
SELECT session_id, status, event_seq, deadline_at, answered_by FROM flotilla.questions
WHERE tenant_id = $1 AND run_id = $2 AND question_id = $3
"""
_MARK_RUN_INTERRUPTED = """
UPDATE flotilla.runs SET status = 'interrupted' WHERE tenant_id = $1 AND run_id = $2 AND status = 'running' RETURNING 1
"""
# Waits for an answer that is being written: that one counts.
_CLOSE_QUESTIONS = """
UPDATE flotilla.questions SET status = $4, closed_at = now()
WHERE tenant_id = $1 AND run_id = $2 AND status = 'open' AND ($3 = '' OR question_id = $3) RETURNING question_id
"""
# The run goes on, unless it waits for people still.
_MARK_RUN_RUNNING = """
UPDATE flotilla.runs AS r SET status = 'running' WHERE tenant_id = $1 AND run_id = $2 AND status = 'interrupted'
    AND NOT EXISTS (SELECT FROM flotilla.questions AS q WHERE q.tenant_id = $1 AND q.run_id = $2 AND q.status = 'open')
    AND NOT EXISTS (SELECT FROM flotilla.approvals AS a
                    WHERE a.tenant_id = $1 AND a.run_id = $2 AND a.status = 'pending')
"""
_OPEN_RUN_STATUSES = ("pending", "running", "interrupted")


class QuestionActivities:
    """The activities behind `Run.ask_person`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @activity.defn(name=ASK_QUESTION)
    async def ask_question(self, question: AskQuestion) -> Asked:
        """Put the question into the inbox, notify who wants to know. Idempotency key: (tenant, question id).

        Raises:
            ApplicationError: `NotFound`, `Invalid`: the run is not there, or over.
        """
        run = question.run
        async with tenant_transaction(self._pool, run.tenant_id) as connection:
            row = await connection.fetchrow(_SELECT_RUN, run.tenant_id, run.run_id)
            if row is None or row["status"] not in _OPEN_RUN_STATUSES:
                raise ApplicationError(
                    f"run {run.run_id} has ended: it can ask no question", type="Invalid", non_retryable=True
                )
            if await _insert_question(connection, question, row):
                await _announce_question(connection, question, row)
            found = await connection.fetchrow(_SELECT_QUESTION, run.tenant_id, run.run_id, question.question_id)
        if found is None:
            raise _unproven_answer_error(f"question {question.question_id} is another run's")
        return Asked(is_open=found["status"] == "open", deadline=found["deadline_at"])

    @activity.defn(name=SETTLE_QUESTION)
    async def settle_question(self, settle: SettleQuestion) -> Answered:
        """Return what came of the question, from the session's log; close an open one as `otherwise` says.

        Idempotency key: (tenant, question id).

        Raises:
            RetryLater: the answer is on its way to the projection.
            ApplicationError: `Unproven`: the log does not hold the answer that the row names.
        """
        run, question_id = settle.run, settle.question_id
        async with tenant_transaction(self._pool, run.tenant_id) as connection:
            await connection.fetchrow(_SELECT_RUN, run.tenant_id, run.run_id)
            if settle.otherwise != "open":
                await close_questions(connection, run, settle.otherwise, question_id)
            row = await connection.fetchrow(_SELECT_QUESTION, run.tenant_id, run.run_id, question_id)
            if row is not None and row["status"] != "open":
                await connection.execute(_MARK_RUN_RUNNING, run.tenant_id, run.run_id)
        if row is None:
            raise _unproven_answer_error(f"there is no question {question_id}")
        if row["status"] != "answered":
            return Answered(status=row["status"])
        return await self._load_answer_from_log(run, question_id, row)

    async def _load_answer_from_log(self, run: RunKey, question_id: str, row: asyncpg.Record) -> Answered:
        """The answer as the session's history has it: nothing else of what is said about it counts."""
        page = await SessionLog(self._pool, run.tenant_id).read_page(
            row["session_id"], row["event_seq"], row["event_seq"]
        )
        event = decode_event(page.bodies[0])
        if event.source != GATEWAY_SOURCE or event.data.get("change") != f"{QUESTION_CHANGE}answered":
            raise _unproven_answer_error(
                f"event {event.id} of session {row['session_id']} does not record a person's answer: the run ends"
            )
        try:
            details = msgspec.convert(event.data.get("details"), _AnswerDetails)
        except msgspec.ValidationError as error:
            raise _unproven_answer_error(f"event {event.id} is not a valid answer: {error}") from error
        if details.question_id != question_id:
            raise _unproven_answer_error(f"event {event.id} answers question {details.question_id}, not {question_id}")
        return Answered(status="answered", answer=details.answer, answered_by=details.by)


class _AnswerDetails(msgspec.Struct, frozen=True):
    question_id: str
    answer: dict[str, Any]
    by: str


async def close_questions(connection: Connection, run: RunKey, status: QuestionStatus, question_id: str = "") -> None:
    """Close the question, or all open ones of the run. The caller holds the run's row lock."""
    rows = await connection.fetch(_CLOSE_QUESTIONS, run.tenant_id, run.run_id, question_id, status)
    if rows:
        found = await connection.fetchrow(_SELECT_RUN, run.tenant_id, run.run_id)
        assert found is not None  # noqa: S101 - its questions are there
        events = [_question_event(run, found, status, {"question_id": row["question_id"]}) for row in rows]
        await append(connection, run.tenant_id, found["session_id"], events)


async def _insert_question(connection: Connection, question: AskQuestion, run: asyncpg.Record) -> bool:
    stored = await seal_columns(
        connection,
        question.run.tenant_id,
        run["session_id"],
        QUESTIONS,
        question.question_id,
        question=question.question,
        answer_schema=to_json(question.schema).decode(),
    )
    added = await connection.fetchval(
        _INSERT_QUESTION,
        question.run.tenant_id,
        question.question_id,
        run["session_id"],
        question.run.run_id,
        run["workflow_id"],
        stored["question"],
        stored["answer_schema"],
        question.roles,
        question.deadline,
    )
    return added is not None


async def _announce_question(connection: Connection, question: AskQuestion, run: asyncpg.Record) -> None:
    key = question.run
    asked: JsonObject = {
        "question_id": question.question_id,
        "question": question.question,
        "schema": question.schema,
        "roles": list(question.roles),
        "deadline": _optional_iso_time(question.deadline),
    }
    await append(connection, key.tenant_id, run["session_id"], [_question_event(key, run, "asked", asked)])
    about: JsonObject = {name: asked[name] for name in ("question_id", "roles", "deadline")}
    await queue_run_notice(connection, key.tenant_id, key.run_id, "run.question_asked", about)
    if await connection.fetchval(_MARK_RUN_INTERRUPTED, key.tenant_id, key.run_id):
        await queue_run_notice(connection, key.tenant_id, key.run_id, "run.interrupted")


def _question_event(run: RunKey, row: asyncpg.Record, change: str, details: JsonObject) -> AgentStateEvent:
    named: JsonObject = {"run_id": run.run_id, **details}
    return state_change(f"{QUESTION_CHANGE}{change}", named, workflow_source(row["workflow"]), run_id=run.run_id)


def _optional_iso_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _unproven_answer_error(why: str) -> ApplicationError:
    return ApplicationError(why, type="Unproven", non_retryable=True)
