"""What people think of answers: thumbs, which become sets for evaluation."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Query

from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import no_such
from flotilla.encryption.tables import FEEDBACK, RUNS
from flotilla.postgres import Connection, open_rows, seal_columns, tenant_transaction
from gateway.auth.principal import EVERYONE
from gateway.guard import allow, guarded_router
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, next_time_cursor, read_time_cursor
from gateway.routes.documented import documented_errors
from gateway.schemas.common import RunId
from gateway.schemas.feedback import Feedback, FeedbackBody, FeedbackList, FeedbackOnRun, RunFeedback
from gateway.services import Caller, Wired

router = guarded_router("runs")
_SELECT_RUNS = "SELECT session_id FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2"
_INSERT_FEEDBACK = """
INSERT INTO flotilla.feedback (tenant_id, run_id, given_by, verdict, comment) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, run_id, given_by) DO UPDATE
    SET verdict = excluded.verdict, comment = excluded.comment, given_at = now()
RETURNING run_id, given_by, verdict, given_at
"""
_OF_RUN = """
SELECT run_id, given_by, verdict, comment, given_at, run_id || '/' || given_by AS place FROM flotilla.feedback
WHERE tenant_id = $1 AND run_id = $2 ORDER BY given_at DESC, given_by
"""
# A page, newest first; $3 and $4 are the last row of the page before.
_LIST_FEEDBACK = """
SELECT f.run_id, f.given_by, f.verdict, f.comment, f.given_at, r.session_id, r.query, r.result,
    f.run_id || '/' || f.given_by AS place
FROM flotilla.feedback AS f JOIN flotilla.runs AS r USING (tenant_id, run_id)
WHERE f.tenant_id = $1 AND ($3::timestamptz IS NULL OR (f.given_at, f.run_id || '/' || f.given_by) < ($3, $4))
  AND ($5::text IS NULL OR f.verdict = $5)
ORDER BY f.given_at DESC, place DESC LIMIT $2
"""


@router.post("/v1/runs/{run_id}/feedback", response_model=Feedback, responses=documented_errors(404, 413, 415))
@allow(EVERYONE, for_others=True, browsers="run")
async def give_feedback(services: Wired, caller: Caller, run_id: RunId, body: FeedbackBody) -> Feedback:
    """Say whether a run's answer was good. Another verdict of the same person replaces the one before."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        session_id = await _session_of(connection, caller.tenant_id, run_id)
        stored = await seal_columns(
            connection, caller.tenant_id, session_id, FEEDBACK, f"{run_id}/{caller.name}", comment=body.comment
        )
        place = (caller.tenant_id, run_id, caller.name)
        row = await connection.fetchrow(_INSERT_FEEDBACK, *place, body.verdict, stored["comment"])
    assert row is not None  # noqa: S101 - inserted or updated just above
    return Feedback.model_validate({**dict(row), "comment": body.comment})


@router.get("/v1/runs/{run_id}/feedback", response_model=RunFeedback, responses=documented_errors(404))
@allow(EVERYONE, for_others=True, browsers="read")
async def get_feedback(services: Wired, caller: Caller, run_id: RunId) -> RunFeedback:
    """What was said of a run's answer."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        session_id = await _session_of(connection, caller.tenant_id, run_id)
        found = await connection.fetch(_OF_RUN, caller.tenant_id, run_id)
        named = [{**dict(row), "session_id": session_id} for row in found]
        rows = await open_rows(connection, caller.tenant_id, FEEDBACK, named)
    return RunFeedback(feedback=[Feedback.model_validate(_without(row, "place", "session_id")) for row in rows])


@router.get("/v1/feedback", response_model=FeedbackList, responses=documented_errors())
@allow(EVERYONE)
async def list_feedback(
    *,
    services: Wired,
    caller: Caller,
    verdict: Annotated[Literal["up", "down"] | None, Query(description="Only these.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> FeedbackList:
    """List verdicts on the runs that the caller may read, newest first, each with its question."""
    before = read_time_cursor(cursor)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        found = await connection.fetch(_LIST_FEEDBACK, caller.tenant_id, limit, *before, verdict)
        rows = await open_rows(connection, caller.tenant_id, RUNS, found)
        rows = await open_rows(connection, caller.tenant_id, FEEDBACK, rows)
    return FeedbackList(
        feedback=[_on_run(row) for row in rows],
        next_cursor=next_time_cursor(rows, limit, "place", time_name="given_at"),
    )


def _on_run(row: Mapping[str, Any]) -> FeedbackOnRun:
    sources = from_json(row["result"], dict).get("sources", []) if row["result"] else []
    shown = _without(row, "place", "session_id", "result")
    return FeedbackOnRun.model_validate({**shown, "cited_uris": sorted({source["uri"] for source in sources})})


def _without(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


async def _session_of(connection: Connection, tenant_id: str, run_id: str) -> str:
    row = await connection.fetchrow(_SELECT_RUNS, tenant_id, run_id)
    if row is None:
        raise no_such("run", run_id)
    return str(row["session_id"])
