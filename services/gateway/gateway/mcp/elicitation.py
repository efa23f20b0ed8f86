"""Questions that a workflow asks people, asked of the call's own client: `input_required` (2026-07-28).

Only those that the caller may answer, as a form: nobody decides about an action here, and nothing is asked of others.
The client sends the call again with the answers, and the call goes on.
"""

import json
from collections.abc import Collection, Mapping
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

_TYPES = {"string", "number", "integer", "boolean"}
_SHOWN = ("type", "title", "description", "enum", "default", "minLength", "maxLength", "minimum", "maximum")
"""What a form says of a field; whatever else the question's schema asks for is checked once it is answered."""
log = structlog.get_logger(__name__)


async def questions_for_caller(door: Door, call: Call, left_out: Collection[str]) -> Json:
    """Return the requests for input that the client gets, by the questions' ids: of those that are open, not in
    `left_out`, that the caller may answer, and whose answers a form can hold."""
    if call.kind != "run" or not door.takes_forms:
        return {}
    rows = await open_questions(door.services.pool, door.caller.tenant_id, call.call_id)
    asked = [
        (row, form)
        for row in rows
        if row["question_id"] not in left_out and (form := form_of(json.loads(row["answer_schema"]))) is not None
    ]
    if not asked:
        return {}
    async with tenant_transaction(door.services.pool, door.caller.tenant_id) as connection:
        return {
            row["question_id"]: {
                "method": "elicitation/create",
                "params": {"mode": "form", "message": row["question"], "requestedSchema": form},
            }
            for row, form in asked
            if await _may_answer(connection, door.caller, row)
        }


def form_of(schema: JsonObject) -> Json | None:
    """Return the schema of a form for answers as `schema` says; None where its fields are not all plain values."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        return None
    fields: Json = {}
    for name, field in properties.items():
        if not isinstance(field, dict) or str(field.get("type")) not in _TYPES:
            return None
        fields[name] = {key: field[key] for key in _SHOWN if key in field}
    return {"type": "object", "properties": fields, "required": schema.get("required", [])}


def input_required_result(call: Call, requests: Json) -> Json:
    """Return the result that asks the client; the call's id comes back with the answers."""
    return {"resultType": "input_required", "inputRequests": requests, "requestState": call.call_id}


async def answer_questions(door: Door, call: Call, responses: Mapping[str, InputResponse]) -> set[str]:
    """Answer the call's questions with what the client sends; return those that its user does not want to answer.

    What is no answer to an open question of the call, or does not fit its schema, counts as not sent: a question that
    is still open is asked again.
    """
    declined: set[str] = set()
    if not responses:
        return declined
    asked = await questions_for_caller(door, call, ())
    for question_id, response in responses.items():
        if question_id not in asked or not isinstance(response, ElicitResult):
            continue
        if response.action != "accept":
            declined.add(question_id)
            continue
        try:
            answer = AnswerBody(answer=dict(response.content or {})).answer
            await answer_open_question(door.services, door.caller, question_id, answer)
        except (RequestValidationError, ValueError, Invalid, Conflict, Forbidden, NotFound) as error:
            log.info("mcp_answer_not_taken", question_id=question_id, error=type(error).__name__)
    return declined


async def _may_answer(connection: Connection, caller: Principal, row: Mapping[str, Any]) -> bool:
    try:
        await check_may_answer(connection, caller, row)
    except (Forbidden, NotFound):
        return False
    return True
