"""What an interrupted task waits for: decisions of people, or answers to questions. Its state says which."""

from dataclasses import dataclass, field
from typing import Any

from a2a.types.a2a_pb2 import Message

from flotilla.contracts.a2a import task_state
from flotilla.contracts.json_types import JsonObject
from flotilla.postgres import Pool
from gateway.a2a.tasks import status_message
from gateway.questions.records import asked_in, open_questions
from gateway.runs.pending_approvals import PendingApproval, list_pending_approvals
from gateway.schemas.runs import Run


@dataclass(frozen=True, slots=True)
class Waiting:
    """Of one run, as the caller sees it."""

    approvals: list[PendingApproval] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)

    def state(self, run: Run) -> str:
        """Return the name of the task's state."""
        return task_state(run.status, decisions=bool(self.approvals), questions=bool(self.questions))

    @property
    def ids(self) -> list[str]:
        """What is waited for, by id."""
        return [*(one.approval_id for one in self.approvals), *(row["question_id"] for row in self.questions)]

    def message(self, run: Run) -> Message | None:
        """Return what is asked of whom, and where; None where nothing is."""
        if not self.ids:
            return None
        about: JsonObject = {
            "approvals": [_approval(one) for one in self.approvals],
            "questions": [asked_in(row) for row in self.questions],
        }
        return status_message(run, self._text(), about, "+".join(self.ids))

    def _text(self) -> str:
        if self.approvals:
            actions = ", ".join(one.action for one in self.approvals)
            return (
                f"People have to decide about {actions}, in the console or at /v1/approvals. A message is not a vote."
            )
        return "\n".join(row["question"] for row in self.questions)


async def load_what_run_waits_for(pool: Pool, tenant_id: str, run: Run) -> Waiting:
    """Return what the run waits for; nothing unless it is interrupted."""
    if run.status != "interrupted":
        return Waiting()
    return Waiting(
        await list_pending_approvals(pool, tenant_id, run), await open_questions(pool, tenant_id, run.run_id)
    )


def _approval(approval: PendingApproval) -> JsonObject:
    return {
        "approval_id": approval.approval_id,
        "action": approval.action,
        "deadline_at": approval.deadline_at.isoformat(),
        "decide_at": f"/v1/approvals/{approval.approval_id}",
    }
