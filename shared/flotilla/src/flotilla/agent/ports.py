"""What a task context needs of the world: behind protocols, so that the test kit can stand in."""

from dataclasses import dataclass
from typing import Protocol

from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.live import StepStatus
from flotilla.contracts.tasks import Turn
from flotilla.llm import Completion, CompletionRequest, OnToken


class Live(Protocol):
    """The way to whoever watches or waits. Losing it loses nothing."""

    async def progress(self, text: str) -> None:
        """Tells that the task goes on."""

    async def token(self, text: str) -> None:
        """Shows a piece of the answer."""

    async def step(self, status: StepStatus) -> None:
        """Shows that the step began or ended."""

    async def reset(self) -> None:
        """Voids the tokens shown so far: a new attempt begins."""

    async def flush(self) -> None:
        """Waits until the tokens given so far are on their way."""

    async def is_cancelled(self) -> bool:
        """Whether the task was cancelled."""


class SessionHistory(Protocol):
    """What happened in the session before this task."""

    async def turns(self, limit: int = 10) -> list[Turn]:
        """The last `limit` questions and answers, oldest first, as forks and rollbacks left them."""


class ModelCalls(Protocol):
    """The language model, with its answers stored under (task id, request, occurrence) before they are used."""

    async def complete(self, request: CompletionRequest, on_token: OnToken) -> Completion:
        """The answer to the next request of this kind in this run of the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolVerdict:
    """What people decided about one call of a gated tool."""

    approved: bool
    status: str
    """`approved`, `not_required`, `rejected`, `timeout` or `cancelled`."""
    args: JsonObject
    """What was decided about: the call's arguments, or those of an edit."""


class Gate(Protocol):
    """What approved calls of gated tools returned."""

    async def stored(self, approval_id: str) -> JsonObject | None:
        """`{"value": ...}` as the approved call returned it, if it was made."""

    async def store(self, approval_id: str, action: str, args: JsonObject, value: JsonValue) -> None:
        """Keeps what the approved call returned: it is not made again."""
