"""An answer: stored with the session's event in one transaction, then the workflow is woken up.

The wake-up says nothing of the answer. The worker reads that from the session's log, where only the gateway writes in
its own name: who reaches Temporal can wake a workflow up, and answer nothing.
"""

import json
from collections.abc import Mapping
from typing import Any

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Conflict, Forbidden
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.questions import QUESTION_CHANGE, answer_event_name
from flotilla.contracts.requests import OutsideEvent
from flotilla.encryption.tables import QUESTIONS
from flotilla.eventstore.sessions import check_may_write_session
from flotilla.outbox import append
from flotilla.postgres import Connection, seal_columns
from flotilla.postgres.viewer import current_viewer
from gateway.auth.principal import OPERATORS, Principal
from gateway.governed.recording import recording_transaction
from gateway.json_schemas import check_fits_schema
from gateway.names import SOURCE
from gateway.questions.records import get_question, question_from_row
from gateway.runs.outside_events import signal_event, store_event
from gateway.schemas.questions import Question
from gateway.services import GatewayServices

# Waits for another answer, or for who closes the question: the first one counts.
_ANSWER_QUESTIONS = """
UPDATE flotilla.questions SET status = 'answered', answer = $3::jsonb, answered_by = $4, acted_by = $5,
    closed_at = now()
WHERE tenant_id = $1 AND question_id = $2 AND status = 'open' AND (deadline_at IS NULL OR deadline_at > now())
RETURNING 1
"""
_STORE_EVENT_SEQ_OF_QUESTIONS = "UPDATE flotilla.questions SET event_seq = $3 WHERE tenant_id = $1 AND question_id = $2"


class NotAPerson(Forbidden):
    """A service answers in its own name."""

    code = "not_a_person"


class WrongRole(Forbidden):
    """The question is for other people."""

    code = "wrong_role"


class AlreadyAnswered(Conflict):
    """Another answer came first."""

    code = "already_answered"


class QuestionClosed(Conflict):
    """Its deadline has passed, or its run has ended."""

    code = "question_closed"


async def answer_open_question(
    services: GatewayServices, caller: Principal, question_id: str, data: JsonObject
) -> Question:
    """Answer; the same answer by the same person again is the first one.

    Raises:
        NotFound: the caller sees no such question.
        NotAPerson, WrongRole, Forbidden: it is not for the caller to answer.
        RequestValidationError: the answer does not fit the question's schema.
        AlreadyAnswered, QuestionClosed: it is not open.
    """
    tenant_id = caller.tenant_id
    async with recording_transaction(services.pool, tenant_id, question_id) as connection:
        row = await get_question(connection, tenant_id, question_id)
        await check_may_answer(connection, caller, row)
    await check_fits_schema(services.run_confined, row["answer_schema"], data, "answer", "question_answer")
    async with recording_transaction(services.pool, tenant_id, question_id) as connection:
        await check_may_answer(connection, caller, row)
        wake_up = await _stored(connection, caller, row, data)
        row = await get_question(connection, tenant_id, question_id)
        if wake_up is None:
            _check_is_the_same(caller, row, data)
            return question_from_row(row)
    await signal_event(services, tenant_id, row["run_id"], row["workflow_id"], wake_up)
    return question_from_row(row)


async def check_may_answer(connection: Connection, caller: Principal, row: Mapping[str, Any]) -> None:
    """Return if the caller may answer the question of `row`.

    Raises:
        NotAPerson, WrongRole, Forbidden, NotFound: the caller may not.
    """
    if caller.limited_person is None:
        raise NotAPerson(f"{caller.subject} is a service: people answer, or a service on behalf of one")
    roles = frozenset(row["roles"])
    if not caller.roles & (roles or OPERATORS):
        needed = " or ".join(sorted(roles or OPERATORS))
        raise WrongRole(f"question {row['question_id']} is for those with the role {needed}")
    viewer = current_viewer()
    if not roles or viewer is None or not set(viewer.roles) & roles:
        await check_may_write_session(connection, caller.tenant_id, row["session_id"])


async def _stored(
    connection: Connection, caller: Principal, row: Mapping[str, Any], data: JsonObject
) -> OutsideEvent | None:
    """Store the answer, its event and what wakes the workflow up; None where the question is not open."""
    key = (caller.tenant_id, row["question_id"])
    stored = await seal_columns(
        connection, caller.tenant_id, row["session_id"], QUESTIONS, row["question_id"], answer=to_json(data).decode()
    )
    if not await connection.fetchval(_ANSWER_QUESTIONS, *key, stored["answer"], caller.subject, caller.acted_by):
        return None
    details: JsonObject = {
        "run_id": row["run_id"],
        "question_id": row["question_id"],
        "answer": data,
        "roles": sorted(caller.roles),
        **caller.by,
    }
    event = state_change(f"{QUESTION_CHANGE}answered", details, SOURCE, run_id=row["run_id"])
    appended = await append(connection, caller.tenant_id, row["session_id"], [event])
    await connection.execute(_STORE_EVENT_SEQ_OF_QUESTIONS, *key, appended.first_seq)
    wake_up = OutsideEvent(event_id=f"answer:{row['question_id']}", name=answer_event_name(row["question_id"]), data={})
    await store_event(connection, caller, row["session_id"], row["run_id"], wake_up)
    return wake_up


def _check_is_the_same(caller: Principal, row: Mapping[str, Any], data: JsonObject) -> None:
    question_id, status = row["question_id"], row["status"]
    if status != "answered":
        how = "its deadline has passed" if status in ("open", "expired") else f"it is {status}"
        raise QuestionClosed(f"question {question_id} takes no more answers: {how}")
    is_theirs = (row["answered_by"], row["acted_by"]) == (caller.subject, caller.acted_by)
    if not is_theirs or json.loads(row["answer"]) != data:
        raise AlreadyAnswered(f"question {question_id} was answered by {row['answered_by']}")
