"""What a pausing task may ask for: calls of its agent's own tools, and calls of MCP tools under ids of its own."""

from typing import Any, cast

import pytest
from temporalio.exceptions import ApplicationError

from flotilla.contracts.envelope import to_json
from flotilla.contracts.tasks import APPROVAL_REQUIRED, AgentTask, ApprovalNeeded, Failure, McpCallNeeded
from workflow_worker.activities.delegation import _raise_if_task_over
from workflow_worker.delegations import SlipHop
from workflow_worker.settlement import ReplyRefused, check_requested_calls

TASK = AgentTask(task_id="t1~1", agent="research", tenant_id="acme", session_id="s", input={})


def asking(*calls: McpCallNeeded, approvals: tuple[ApprovalNeeded, ...] = ()) -> Failure:
    """The failure of a task that asks for this."""
    return Failure(
        type=APPROVAL_REQUIRED, message="waits", retryable=False, approvals=list(approvals), calls=list(calls)
    )


def call(call_id: str = "t1-1.mcp.a", tool: str = "desk.add") -> McpCallNeeded:
    """A call that a task asks for."""
    return McpCallNeeded(call_id=call_id, tool=tool, arguments={})


FORGED = ApprovalNeeded(approval_id="t1~1.x", action="http_request", description="", args={}, risk_level="low")


def test_calls_under_ids_of_the_task_are_asked_for() -> None:
    check_requested_calls("research", TASK, asking(call(), call("t1-1.mcp.b")))


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (asking(call("t2.mcp.a")), "is not one of this task"),
        (asking(call("t1-1.mcp.a~5")), "is not one of this task"),
        (asking(call(tool="desk")), "is not a tool of an MCP server"),
        (asking(call(tool="desk." + "x" * 100_000)), "is not a tool of an MCP server"),
        (asking(call(), call()), "the same call twice"),
        (asking(*(call(f"t1-1.mcp.{n}") for n in range(51))), "51 approvals and calls"),
        (asking(approvals=(FORGED,)), "is not a tool of agent research"),
    ],
)
def test_anything_else_is_refused(failure: Failure, why: str) -> None:
    with pytest.raises(ReplyRefused, match=why):
        check_requested_calls("research", TASK, failure)


def test_an_agent_that_stores_what_it_may_not_ask_for_and_never_replies_gets_none_of_it() -> None:
    row: Any = {"status": "failed", "attempt": 1, "failure": to_json(asking(approvals=(FORGED,))).decode()}
    with pytest.raises(ApplicationError, match="is not a tool of agent research") as refused:
        _raise_if_task_over(SlipHop(TASK, cast("Any", row)))
    assert refused.value.type == "DeadLetter"
    assert refused.value.details[0].approvals == []
