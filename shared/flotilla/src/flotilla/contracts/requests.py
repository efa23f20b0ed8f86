"""What people ask of the fleet: questions, actions, orders."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flotilla.contracts.envelope import from_json
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.questions import OpenQuestion
from flotilla.contracts.session_events import Source
from flotilla.contracts.tasks import (
    ConfidenceBasis,
    DroppedCitation,
    FinishReason,
    Replay,
    Statement,
    TokenUsage,
    Turn,
)

RunStatus: TypeAlias = Literal[
    "queued", "pending", "running", "interrupted", "success", "error", "timeout", "cancelled"
]
ACTIVE_RUN_STATUSES: tuple[RunStatus, ...] = ("pending", "running", "interrupted")
"""Those of which a session has one run at a time."""
OPEN_RUN_STATUSES: tuple[RunStatus, ...] = ("queued", *ACTIVE_RUN_STATUSES)
"""Those of runs that are not over."""
IfActive: TypeAlias = Literal["reject", "enqueue", "interrupt", "rollback"]
"""What becomes of a run while another one of its session is active."""
RiskLevel: TypeAlias = Literal["low", "medium", "high"]


@dataclass(frozen=True, slots=True)
class RAGRequest:
    """A question. `user_id` is the subject of the caller's token."""

    query: str
    user_id: str
    session_id: str
    tenant_id: str = "default"
    run_id: str = ""
    steps: list[str] = field(default_factory=list)
    """Empty: research, then write, a workflow step each. Else one routing slip through these agents."""
    top_k: int = 5
    history: list[Turn] = field(default_factory=list)
    """Earlier turns as the client sent them, oldest first; empty: those of the session."""
    schedule_id: str = ""
    """The schedule that starts it, if one does."""
    replay: Replay | None = None
    """The recorded run that it does again, if it is a replay."""


@dataclass(frozen=True, slots=True)
class RAGResponse:
    """An answer with its sources; `confidence` is computed, `confidence_basis` says from what."""

    answer: str
    sources: list[Source]
    confidence: float
    confidence_basis: ConfidenceBasis = "retrieval_scores"
    model: str = ""
    usage: TokenUsage = field(default_factory=TokenUsage)
    finish_reason: FinishReason = "stop"
    """`length`: the answer was cut off. `refusal`: the model declined to answer."""
    searched_for: str = ""
    """What the search got where that is not what was asked, as for a follow-up; else empty."""
    abstained: bool = False
    """The fleet declined to answer: what was found is not likely to answer the question."""
    statements: list[Statement] = field(default_factory=list)
    """The answer's sentences, each held against the passages that it cites."""
    dropped_citations: list[DroppedCitation] = field(default_factory=list)
    """Citations of the model's that support nothing of what they were put to."""
    features: dict[str, float] = field(default_factory=dict)
    """What the confidence is computed from."""


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """A governed action. `risk_level` can raise the risk that policy computes, never lower it."""

    action: str
    description: str
    risk_level: RiskLevel
    requested_by: str
    args: JsonObject = field(default_factory=dict)
    action_id: str = ""
    tenant_id: str = "default"
    session_id: str = ""
    on_behalf_of: str = ""
    """The person at the root, where an agent asks; excluded from the vote like the requester."""
    run_id: str = ""
    """The run that the action belongs to, if any."""
    task_id: str = ""
    requested_through: list[str] = field(default_factory=list)
    """Who issued the requester's keys, and the keys of those: none of them may decide."""
    requested_by_service: bool = False
    """No person: it counts as those who issued its keys."""


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order; `amount_minor` in minor units (cents) of `currency`."""

    order_id: str
    user_id: str
    amount_minor: int
    product_id: str
    currency: str = "EUR"
    tenant_id: str = "default"
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class PipelineRequest:
    """A chain of agents by routing slip; its result is the last agent's."""

    steps: list[str]
    input: JsonObject
    user_id: str
    task_id: str = ""
    tenant_id: str = "default"
    session_id: str = ""
    timeout_s: float | None = None
    """How long each agent may work at it, in seconds; None: as long as the agent allows itself."""


RUN_EVENT_SIGNAL = "flotilla_run_event"
"""The signal that brings a workflow an `OutsideEvent`."""
MAX_RUN_EVENTS = 1000
"""How many events one run takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideEvent:
    """An event for a run, from `POST /v1/runs/{r}/events/{name}`. `event_id` tells a repetition from a second event."""

    event_id: str
    name: str
    data: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a run takes along when its workflow continues as new."""

    steps: dict[str, int] = field(default_factory=dict)
    """How often each name of a step was used."""
    records: int = 0
    """How many records the run has written to its session."""
    events: list[OutsideEvent] = field(default_factory=list)
    """Events from outside that nobody has waited for yet."""
    seen: list[str] = field(default_factory=list)
    """The ids of all events that came."""
    questions: list[OpenQuestion] = field(default_factory=list)
    """Questions to people that nobody has answered yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRequest:
    """A run of a workflow that an installed package brings: see `flotilla.workflows`."""

    workflow: str
    """Its name, as `GET /v1/workflows` has it."""
    input: JsonObject
    user_id: str
    session_id: str
    tenant_id: str = "default"
    run_id: str = ""
    version: str = ""
    """Of the workflow, when the run was started."""
    task_queue: str = ""
    """Where its workers are."""
    requested_through: list[str] = field(default_factory=list)
    """Who issued the keys of `user_id`, and the keys of those: none of them may decide about the run's actions."""
    requested_by_service: bool = False
    """`user_id` is not a person, or did not ask themselves."""
    acted_by: str = ""
    """The service that asks on behalf of `user_id`; empty where they ask themselves."""
    carried: Carried = field(default_factory=Carried)
    schedule_id: str = ""
    """The schedule that starts it, if one does; its session is then its own where none is named."""
    parent_run_id: str = ""
    """The run that starts it, if one does."""


def read_run_request(stored: str | bytes) -> RAGRequest | WorkflowRequest:
    """Return the request of a run as its row holds it.

    Raises:
        Undecodable: it is neither.
    """
    if "workflow" in from_json(stored, dict):
        return from_json(stored, WorkflowRequest)
    return from_json(stored, RAGRequest)
