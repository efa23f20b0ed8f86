"""Questions that workflows ask people: the inbox of those who answer."""

from typing import Annotated

from fastapi import Query

from flotilla.contracts.questions import QuestionStatus
from flotilla.postgres import tenant_transaction
from gateway.auth.principal import EVERYONE
from gateway.guard import allow, guarded_router
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, next_time_cursor, read_time_cursor
from gateway.questions import records
from gateway.questions.answering import answer_open_question
from gateway.routes.documented import documented_errors
from gateway.schemas.common import ID_PATTERN, ResourceId
from gateway.schemas.questions import AnswerBody, Question, QuestionList
from gateway.services import Caller, Wired

router = guarded_router("questions")
OnlyId = Annotated[str | None, Query(pattern=ID_PATTERN, description="Only of this.")]


@router.get("/v1/questions", response_model=QuestionList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_questions(
    *,
    services: Wired,
    caller: Caller,
    status: Annotated[QuestionStatus | None, Query(description="Only these; by default all.")] = None,
    run_id: OnlyId = None,
    session_id: OnlyId = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> QuestionList:
    """List the questions for one's roles, and those of sessions that one may read; newest first."""
    rows = await records.list_questions(
        services.pool,
        caller.tenant_id,
        status=status,
        run_id=run_id,
        session_id=session_id,
        limit=limit,
        before=read_time_cursor(cursor),
    )
    questions = [records.question_from_row(row) for row in rows]
    return QuestionList(questions=questions, next_cursor=next_time_cursor(rows, limit, "question_id"))


@router.get("/v1/questions/{question_id}", response_model=Question, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_question(services: Wired, caller: Caller, question_id: ResourceId) -> Question:
    """One question, with the JSON schema of its answer."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return records.question_from_row(await records.get_question(connection, caller.tenant_id, question_id))


@router.post(
    "/v1/questions/{question_id}/answer", response_model=Question, responses=documented_errors(404, 409, 413, 415)
)
@allow(EVERYONE, free_json=True, for_others=True)
async def answer_question(services: Wired, caller: Caller, question_id: ResourceId, body: AnswerBody) -> Question:
    """Answer, as a person or on behalf of one. The first answer counts; the same one again is no second."""
    return await answer_open_question(services, caller, question_id, body.answer)
