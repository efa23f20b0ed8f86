"""Questions that a workflow asks people, asked of the call's own client: `input_required` (2026-07-28).

Only those that the caller may answer, as a form: nobody decides about an action here, and nothing is asked of others.
The client sends the call again with the answers, or updates its task with them, and the call goes on.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from mcp_types import ElicitResult, InputResponse

from flotilla.contracts.errors import Conflict, Forbidden, Invalid, NotFound
from flotilla.contracts.json_types import JsonObject
from flotilla.postgres import Connection, tenant_transaction
from gateway.auth.principal import Principal
from gateway.mcp.calls import Call
from gateway.mcp.door import Door
from gateway.mcp.results import Json
from gateway.questions.answering import answer_open_question, check_may_answer
from gateway.questions.records import open_questions
from gateway.schemas.questions import AnswerBody

MOST_MISFITS = 5
"""So many answers of a call's client that do not fit a question; then it waits for an answer at `/v1/questions`."""
_TYPES = {"string", "number", "integer", "boolean"}
_SHOWN = ("type", "title", "description", "enum", "default", "minLength", "maxLength", "minimum", "maximum")
"""What a form says of a field. What else is asked of it is added to its description."""
_OF_FORMS = {"type", "properties", "required"}
_SAYS_NOTHING = {"title", "description", "$schema", "$defs", "$comment", "examples", "additionalProperties"}
"""Members of a question's schema that ask for nothing which a form does not ask for."""
_SELECT_NOTES_MCP_CALLS = "SELECT misfits, declined FROM flotilla.mcp_calls WHERE tenant_id = $1 AND call_id = $2"
_NOTE_MISFIT = """
UPDATE flotilla.mcp_calls SET misfits = array_append(misfits, $3) WHERE tenant_id = $1 AND call_id = $2
"""
_NOTE_DECLINED = """
UPDATE flotilla.mcp_calls SET declined = array_append(declined, $3)
WHERE tenant_id = $1 AND call_id = $2 AND NOT $3 = ANY (declined)
"""
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question that the client's user is asked, under a key that no answered request had."""

    key: str
    question_id: str
    message: str
    form: Json

    def request(self) -> Json:
        """Return it as the protocol asks for input."""
        params = {"mode": "form", "message": self.message, "requestedSchema": self.form}
        return {"method": "elicitation/create", "params": params}


async def questions_for_caller(door: Door, call: Call, left_out: Collection[str] = ()) -> list[AskedQuestion]:
    """Return what the client is asked: the questions that are open, not in `left_out`, and that the caller may answer
    and a form can hold."""
    if call.kind != "run" or not door.takes_forms:
        return []
    rows = await open_questions(door.services.pool, door.caller.tenant_id, call.call_id)
    forms = {row["question_id"]: form_of(json.loads(row["answer_schema"])) for row in rows}
    if not any(forms.values()):
        return []
    asked = []
    async with tenant_transaction(door.services.pool, door.caller.tenant_id) as connection:
        notes = await connection.fetch(_SELECT_NOTES_MCP_CALLS, door.caller.tenant_id, call.call_id)
        misfits = Counter(str(one) for row in notes for one in row["misfits"])
        declined = {*left_out, *(str(one) for row in notes for one in row["declined"])}
        for row in rows:
            question_id, form = row["question_id"], forms[row["question_id"]]
            if form is None or question_id in declined or misfits[question_id] >= MOST_MISFITS:
                continue
            if await _may_answer(connection, door.caller, row):
                asked.append(_asked(row, form, misfits[question_id]))
    return asked


def _asked(row: Mapping[str, Any], form: Json, misfits: int) -> AskedQuestion:
    question_id, message = row["question_id"], row["question"]
    if misfits:
        message = f"{message}\n\nYour last answer did not fit what is asked for."
    return AskedQuestion(f"{question_id}.{misfits + 1}", question_id, message, form)


def form_of(schema: JsonObject) -> Json | None:
    """Return the schema of a form for answers as `schema` says; None where its fields are not all plain values, or it
    asks for more than them."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not properties or schema.keys() - _OF_FORMS - _SAYS_NOTHING:
        return None
    if not isinstance(required, list) or not all(name in properties for name in required):
        return None
    fields: Json = {}
    for name, field in properties.items():
        if not isinstance(field, dict) or str(field.get("type")) not in _TYPES:
            return None
        fields[name] = _field(field)
    return {"type": "object", "properties": fields, "required": required}


def _field(field: JsonObject) -> Json:
    shown: Json = {key: field[key] for key in _SHOWN if key in field}
    further = {key: value for key, value in field.items() if key not in {*_SHOWN, *_SAYS_NOTHING}}
    if further:
        said = ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in further.items())
        shown["description"] = f"{field.get('description', '')} ({said})".strip()
    return shown


def input_requests(asked: Collection[AskedQuestion]) -> Json:
    """Return the requests for input, by their keys."""
    return {one.key: one.request() for one in asked}


def input_required_result(call: Call, asked: Collection[AskedQuestion]) -> Json:
    """Return the result that asks the client; the call's id comes back with the answers."""
    return {"resultType": "input_required", "inputRequests": input_requests(asked), "requestState": call.call_id}


async def answer_questions(door: Door, call: Call, responses: Mapping[str, InputResponse]) -> set[str]:
    """Answer the call's questions with what the client sends; return those that its user does not want to answer.

    What is no answer to a request that is open counts as not sent. An answer that does not fit is noted: the question
    is asked again under another key, at most `MOST_MISFITS` times.
    """
    declined: set[str] = set()
    if not responses:
        return declined
    asked = {one.key: one.question_id for one in await questions_for_caller(door, call)}
    for key, response in responses.items():
        question_id = asked.get(key)
        if question_id is None or not isinstance(response, ElicitResult):
            continue
        if response.action != "accept":
            declined.add(question_id)
            continue
        try:
            answer = AnswerBody(answer=dict(response.content or {})).answer
            await answer_open_question(door.services, door.caller, question_id, answer)
        except (RequestValidationError, ValueError, Invalid) as error:
            log.info("mcp_answer_not_taken", question_id=question_id, error=type(error).__name__)
            await _note(door, call, _NOTE_MISFIT, question_id)
        except (Conflict, Forbidden, NotFound) as error:  # it is open no more, or not for the caller
            log.info("mcp_answer_not_taken", question_id=question_id, error=type(error).__name__)
    return declined


async def note_declined(door: Door, call: Call, question_ids: Collection[str]) -> None:
    """Note that the user of the task's client does not answer these: the task asks for them no more."""
    for question_id in question_ids:
        await _note(door, call, _NOTE_DECLINED, question_id)


async def _note(door: Door, call: Call, statement: str, question_id: str) -> None:
    async with tenant_transaction(door.services.pool, door.caller.tenant_id) as connection:
        await connection.execute(statement, door.caller.tenant_id, call.call_id, question_id)


async def _may_answer(connection: Connection, caller: Principal, row: Mapping[str, Any]) -> bool:
    try:
        await check_may_answer(connection, caller, row)
    except (Forbidden, NotFound):
        return False
    return True
