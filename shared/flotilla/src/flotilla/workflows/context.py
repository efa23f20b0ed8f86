"""Whose run it is, and what it starts from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flotilla.contracts.tasks import Replay, Turn
from flotilla.workflows.calls.runs import RunKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """Whose run it is, and what it starts from."""

    key: RunKey
    session_id: str
    user_id: str
    history: Sequence[Turn] = ()
    limits_s: Mapping[str, float] = field(default_factory=dict)
    """How long a task of each registered agent may take, as the agent says."""
    live: str | None = None
    """The Redis stream of the run's live tokens and steps."""
    requested_through: Sequence[str] = ()
    requested_by_service: bool = False
    acted_by: str = ""
    """The service that asked on behalf of `user_id`."""
    replay: Replay | None = None
    """The recorded run that it does again, if it is a replay."""
