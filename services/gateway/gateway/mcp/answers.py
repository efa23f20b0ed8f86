"""What an MCP client gets of a call: its result, or what it waits for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flotilla.contracts.approvals import ApprovalRequirement
from flotilla.contracts.envelope import from_json, to_builtins, to_json
from flotilla.contracts.mcp import MCP_AGENT
from flotilla.encryption.tables import APPROVALS
from flotilla.postgres import open_rows, tenant_transaction
from gateway.mcp.calls import Call
from gateway.mcp.door import Door
from gateway.mcp.results import MAX_RESULT_BYTES, Json, content_blocks_result, failure, text_result
from gateway.questions.records import list_questions
from gateway.schemas.pipelines import Task
from gateway.schemas.runs import Run

_MOST_NAMED = 5
# Of a run; of a task, its hops, and the calls of MCP tools that those asked for.
_SELECT_PENDING_APPROVALS = f"""
SELECT approval_id, session_id, action, requirement, quorum, votes, deadline_at FROM flotilla.approvals
WHERE tenant_id = $1 AND session_id = $2 AND status = 'pending'
  AND (run_id = $3 OR task_id = $3 OR starts_with(task_id, $3 || '~') OR starts_with(task_id, $3 || '.mcp.')
       OR starts_with(task_id, $3 || '-'))
ORDER BY created_at, approval_id LIMIT {_MOST_NAMED}
"""  # noqa: S608 - a constant


def call_tool_result(work: Task | Run) -> Json:
    """Return the `CallToolResult` of a call that is over: what a tool failed with is a result, too."""
    result = _result_of_run(work) if isinstance(work, Run) else _result_of_task(work)
    size = len(to_json(result))
    if size > MAX_RESULT_BYTES:
        place = f"/v1/runs/{work.run_id}" if isinstance(work, Run) else f"/v1/tasks/{work.task_id}"
        return failure(f"the result has {size} bytes, and {MAX_RESULT_BYTES} can be sent here: read it at {place}")
    return result


def _result_of_run(run: Run) -> Json:
    if run.status != "success":
        return _failed(run.status, run.error)
    if run.result is not None:
        return text_result(run.result.answer, to_builtins(run.result))
    return _of_value(run.output)


def _result_of_task(task: Task) -> Json:
    if task.status != "success":
        return _failed(task.status, task.error)
    if task.steps == [MCP_AGENT] and isinstance(task.result, dict) and "content" in task.result:
        return _of_tool(task.result)
    return _of_value(task.result)


def _of_tool(result: Json) -> Json:
    """Return what an MCP server's tool answered, as it answered."""
    answer = content_blocks_result(result["content"], is_error=bool(result.get("is_error")))
    if isinstance(result.get("structured"), dict):
        answer["structuredContent"] = result["structured"]
    return answer


def _of_value(value: Any) -> Json:
    text = value if isinstance(value, str) else to_json(value).decode()
    return text_result(text, value if isinstance(value, dict) else None)


def _failed(status: str, error: Json | None) -> Json:
    message = (error or {}).get("message") or f"it ended as {status}"
    return failure(str(message), {"status": status, "error": error})


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingApproval:
    """An action that waits for people, and for whom."""

    approval_id: str
    action: str
    quorum: int
    approved: int
    roles: Sequence[str]
    deadline_at: str
    decide_at: str

    def in_words(self) -> str:
        """Return who has to do what, and where."""
        roles = " or ".join(self.roles) or "approver"
        people = "1 person" if self.quorum == 1 else f"{self.quorum} people"
        so_far = f" ({self.approved} did so far)" if self.approved else ""
        return (
            f"{people} with the role {roles} must approve {self.action}{so_far} by {self.deadline_at}, at "
            f"{self.decide_at} or with `flotilla approvals approve {self.approval_id}`."
        )


async def describe_what_call_waits_for(door: Door, call: Call) -> tuple[str, Json]:
    """Return what the call waits for, in words for people and models, and as data."""
    tenant_id = door.caller.tenant_id
    async with tenant_transaction(door.services.pool, tenant_id) as connection:
        found = await connection.fetch(_SELECT_PENDING_APPROVALS, tenant_id, call.session_id, call.call_id)
        rows = await open_rows(connection, tenant_id, APPROVALS, found)
    approvals = [_pending(door, row) for row in rows]
    questions = await _questions(door, call) if call.kind == "run" else []
    said = [one.in_words() for one in approvals]
    if questions:
        said.append(f"A person must answer a question, at {door.base_url}/questions.")
    data: Json = {
        "status": "waiting",
        f"{call.kind}_id": call.call_id,
        "session_id": call.session_id,
        "approvals": [asdict(one) for one in approvals],
        "questions": questions,
    }
    return " ".join(said) or "It is being worked on.", data


def _pending(door: Door, row: Mapping[str, Any]) -> PendingApproval:
    return PendingApproval(
        approval_id=row["approval_id"],
        action=row["action"],
        quorum=row["quorum"],
        approved=sum(vote["decision"] == "approve" for vote in json.loads(row["votes"])),
        roles=from_json(row["requirement"], ApprovalRequirement).roles,
        deadline_at=row["deadline_at"].isoformat(timespec="seconds"),
        decide_at=f"{door.base_url}/approvals/{row['approval_id']}",
    )


async def _questions(door: Door, call: Call) -> list[Json]:
    rows = await list_questions(
        door.services.pool,
        door.caller.tenant_id,
        status="open",
        run_id=call.call_id,
        session_id=None,
        limit=_MOST_NAMED,
        before=(None, None),
    )
    return [{"question_id": row["question_id"], "question": row["question"]} for row in rows]
