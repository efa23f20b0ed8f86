"""Steps of a run: their names, their results, and how they fail."""

from dataclasses import dataclass, replace

from temporalio.exceptions import ApplicationError

from flotilla.contracts.approvals import ActionState
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.tasks import ResultReference
from flotilla.workflows.delegation import StepTrouble


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentResult:
    """What an agent answered to `Run.ask`."""

    step: str
    task_id: str
    """The task whose row holds the result: the last hop's, in a routing slip."""
    data: JsonObject | None
    """None for a result of more than 16 kB: pass it on with `input_from`, or ask with `returns`."""
    reference: ResultReference | None
    """Stands for such a result: size, hash and the beginning of its text."""


class StepFailed(ApplicationError):
    """A step of a run failed: `step` names it, `trouble` says why."""

    def __init__(self, step: str, trouble: StepTrouble) -> None:
        super().__init__(trouble.message, type=trouble.type, non_retryable=True)
        self.step = step
        self.trouble = replace(trouble, step=step)


class ActionRefused(StepFailed):
    """A governed action was not executed, or failed: `status` is `rejected`, `timeout`, `failed` or `cancelled`."""

    def __init__(self, step: str, trouble: StepTrouble, status: str) -> None:
        super().__init__(step, trouble)
        self.status = status


class NotAnswered(StepFailed):
    """Nobody answered a question: `status` is `expired` or `cancelled`."""

    def __init__(self, step: str, trouble: StepTrouble, status: str) -> None:
        super().__init__(step, trouble)
        self.status = status


def action_failure_reason(action: str, state: ActionState) -> StepTrouble:
    """Return why an action was not executed: its error, or the reasons of those who rejected it."""
    reasons = [vote.reason for vote in state.votes if vote.decision == "reject" and vote.reason]
    why = state.error or "; ".join(reasons)
    message = f"action {action}: {state.status}" + (f": {why}" if why else "")
    return StepTrouble("ActionRefused", message, timed_out=False, cancelled=False, retryable=False)


class StepNames:
    """Gives each step of a run a name of its own: `research`, `research:2`, `research:3`."""

    def __init__(self, used: dict[str, int] | None = None) -> None:
        self.used = dict(used or {})

    def next(self, name: str) -> str:
        """Return the next name for a step called `name`."""
        count = self.used[name] = self.used.get(name, 0) + 1
        return name if count == 1 else f"{name}:{count}"
