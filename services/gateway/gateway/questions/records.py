"""The rows of `flotilla.questions` as people see them."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flotilla.contracts.errors import no_such
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.questions import QuestionStatus
from flotilla.encryption.tables import QUESTIONS
from flotilla.postgres import Connection, Pool, open_row, open_rows, tenant_transaction
from gateway.schemas.questions import Question

MOST_SHOWN = 20
_COLUMNS = """question_id, session_id, run_id, workflow_id, question, answer_schema, roles, status, deadline_at, answer,
    answered_by, acted_by, created_at, closed_at"""
_SELECT_QUESTIONS = f"SELECT {_COLUMNS} FROM flotilla.questions WHERE tenant_id = $1 AND question_id = $2"  # noqa: S608 - constants
# A page, newest first; $6 and $7 are the last row of the page before.
_LIST_QUESTIONS = f"""
SELECT {_COLUMNS} FROM flotilla.questions
WHERE tenant_id = $1 AND ($2::text IS NULL OR status = $2) AND ($3::text IS NULL OR run_id = $3)
  AND ($4::text IS NULL OR session_id = $4) AND ($6::timestamptz IS NULL OR (created_at, question_id) < ($6, $7))
ORDER BY created_at DESC, question_id DESC LIMIT $5
"""  # noqa: S608


async def get_question(connection: Connection, tenant_id: str, question_id: str) -> dict[str, Any]:
    """Return one question's row.

    Raises:
        NotFound: the caller sees no such question.
    """
    row = await connection.fetchrow(_SELECT_QUESTIONS, tenant_id, question_id)
    if row is None:
        raise no_such("question", question_id)
    return await open_row(connection, tenant_id, QUESTIONS, row)


async def list_questions(
    pool: Pool,
    tenant_id: str,
    *,
    status: QuestionStatus | None,
    run_id: str | None,
    session_id: str | None,
    limit: int,
    before: tuple[datetime | None, str | None],
) -> list[dict[str, Any]]:
    """Return the rows of a page, newest first."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_LIST_QUESTIONS, tenant_id, status, run_id, session_id, limit, *before)
        return await open_rows(connection, tenant_id, QUESTIONS, rows)


async def open_questions(pool: Pool, tenant_id: str, run_id: str) -> list[dict[str, Any]]:
    """Return the rows of what a run asks people, at most 20, newest first."""
    return await list_questions(
        pool, tenant_id, status="open", run_id=run_id, session_id=None, limit=MOST_SHOWN, before=(None, None)
    )


def asked_in(row: Mapping[str, Any]) -> JsonObject:
    """Return an open question as other protocols show it: what is asked of whom, and where the answer goes."""
    return {
        "question_id": row["question_id"],
        "question": row["question"],
        "schema": json.loads(row["answer_schema"]),
        "roles": list(row["roles"]),
        "deadline_at": row["deadline_at"] and row["deadline_at"].isoformat(),
        "answer_at": f"/v1/questions/{row['question_id']}/answer",
    }


def question_from_row(row: dict[str, Any]) -> Question:
    """Return a row as people see it."""
    answer = row["answer"]
    return Question.model_validate(
        {
            **dict(row),
            "schema": json.loads(row["answer_schema"]),
            "answer": None if answer is None else json.loads(answer),
        }
    )
