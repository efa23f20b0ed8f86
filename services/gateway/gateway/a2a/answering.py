"""A message that answers a question of a task, by the rules of /v1/questions."""

import json

from a2a.types.a2a_pb2 import Message
from a2a.utils.errors import InvalidParamsError
from google.protobuf.json_format import MessageToDict

from flotilla.postgres import tenant_transaction
from gateway.a2a.tasks import said
from gateway.a2a.waiting import Waiting
from gateway.idempotency import IdempotencyClaim
from gateway.questions.answering import answer_open_question
from gateway.questions.records import get_question
from gateway.runs.askable import parse_object_for_schema
from gateway.schemas.questions import AnswerBody
from gateway.services import GatewayServices

QUESTION_ID = "question_id"
"""Of a message's metadata: which of several questions it answers."""
_QUESTION = "question:"


async def answer_question(
    services: GatewayServices, claim: IdempotencyClaim, message: Message, waiting: Waiting
) -> None:
    """Answer as the claim's principal. A message that is sent twice answers what it answered first.

    Raises:
        InvalidParamsError: it names no open question, or none of several.
        FlotillaError, RequestValidationError: as `gateway.questions.answering.answer_open_question`.
    """
    caller = claim.principal
    question_id = _asked(message, waiting)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        earlier = await claim.take(connection, f"{_QUESTION}{question_id}")
        if earlier is not None and not earlier.startswith(_QUESTION):
            return  # it was an event of the workflow
        question_id = (earlier or f"{_QUESTION}{question_id}").removeprefix(_QUESTION)
        row = await get_question(connection, caller.tenant_id, question_id)
    text, data = said(message)
    schema = json.loads(row["answer_schema"])
    given = data if data is not None else parse_object_for_schema(text, schema, f"the answer to question {question_id}")
    await answer_open_question(services, caller, question_id, AnswerBody(answer=dict(given)).answer)


def _asked(message: Message, waiting: Waiting) -> str:
    """The question that the message names, or the only one."""
    open_ids = [str(row["question_id"]) for row in waiting.questions]
    named = MessageToDict(message.metadata).get(QUESTION_ID)
    if named is None and len(open_ids) == 1:
        return open_ids[0]
    if named not in open_ids:
        raise InvalidParamsError(f"message.metadata.{QUESTION_ID}: name the question; open are {', '.join(open_ids)}")
    return str(named)
