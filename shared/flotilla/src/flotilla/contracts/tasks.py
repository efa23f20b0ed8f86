"""Delegation: what a workflow (or an agent, in a routing slip) sends to an agent, and what comes back.

Both travel as the `data` of a CloudEvent in the field `event` of a Redis entry; `docs/foreign-agents.md` shows
them as JSON for other languages.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.session_events import Source

TASK_REQUESTED = "flotilla.task.requested.v1"
TASK_REPLIED = "flotilla.task.replied.v1"
RESEARCH_COMPLETED = "flotilla.research.completed.v1"
DRAFT_COMPLETED = "flotilla.draft.completed.v1"
DEAD_LETTERED = "flotilla.entry.dead_lettered.v1"

HOP_MARK = "~"
_CALL_ID = re.compile(r"[A-Za-z0-9._:-]{1,300}")
"""Without the mark of a hop: a call is a task of its own."""
MAX_TASK_INPUT_BYTES = 900_000
"""Of a task's input as JSON: a Redis entry holds 1,000,000, and the rest of the task has to fit beside it."""
MAX_INLINE_RESULT_BYTES = 16_384
"""Results above this stay in PostgreSQL; the workflow gets a `ResultReference`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyAddress:
    """Which waiting activity a reply completes. By ids, not by task token: a token changes with each attempt."""

    workflow_id: str
    workflow_run_id: str
    activity_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """A call of a tool as the log shows it."""

    agent: str
    tool: str
    args: JsonObject
    result: JsonValue = None
    error: str | None = None
    """Why it failed; then there is no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a recorded run is to be done again with. Calls of tools are answered from the recording, effects do not
    happen."""

    of_run: str
    model: str = ""
    """Of those that the agent offers to replays; empty: its own."""
    prompts: dict[str, str] = field(default_factory=dict)
    """By agent; instead of those in its code."""
    agents: dict[str, str] = field(default_factory=dict)
    """Which agent works in the place of another."""
    index: Literal["recorded", "live"] = "recorded"
    """`live`: searches are made again, in the documents of today."""
    calls: list[RecordedCall] = field(default_factory=list)
    history: list["Turn"] = field(default_factory=list)
    """What was said in the session before the recorded run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTask:
    """One unit of work for one agent. `task_id` is its idempotency key."""

    task_id: str
    agent: str
    tenant_id: str
    session_id: str
    input: JsonObject
    attempt: int = 1
    """The workflow's try, from 1. A redelivery by the bus is the same attempt."""
    run_id: str | None = None
    user_id: str | None = None
    """Subject of the person at the root of the work."""
    reply_to: ReplyAddress | None = None
    input_from: str | None = None
    """Task whose stored result is laid under `input`: `{**result_of(input_from), **input}`. Keeps large results
    out of Redis and out of workflow histories."""
    slip: list[str] = field(default_factory=list)
    """Agents still to visit after this one; the last one's result completes the activity."""
    timeout_s: float | None = None
    """How long the agent may work at it, in seconds; None: as long as the agent allows itself."""
    deadline: str | None = None
    """RFC 3339. After it nobody waits for the task, and its ticket is void."""
    secret: str | None = None
    """Proves to the database that its holder was given this task; a new one for each hop and try."""
    live: str | None = None
    """The Redis stream that takes the run's live tokens and steps; None where nobody follows."""
    replay: Replay | None = None
    """The recorded run that this is done again for: nothing may leave the agent but its answer."""


def root_task_id(task_id: str) -> str:
    """The task that a routing slip began with: `t` for `t~2`."""
    return task_id.partition(HOP_MARK)[0]


def hop_number(task_id: str) -> int:
    """How many agents of the slip come before `task_id`: 0 for `t`, 2 for `t~2`."""
    return int(task_id.partition(HOP_MARK)[2] or 0)


def next_hop_id(task_id: str) -> str:
    """The id of the hop after `task_id`: `t~1` after `t`, `t~2` after `t~1`."""
    root, _, hop = task_id.partition(HOP_MARK)
    return f"{root}{HOP_MARK}{int(hop or 0) + 1}"


def last_hop_id(task_id: str, slip_length: int) -> str:
    """The id of the hop whose answer ends the slip: that of the task itself when the slip is empty."""
    root, _, hop = task_id.partition(HOP_MARK)
    last = int(hop or 0) + slip_length
    return f"{root}{HOP_MARK}{last}" if last else root


def next_hop(task: AgentTask, result: JsonObject, *, by_reference: bool) -> AgentTask:
    """The task for the next agent of the slip: the same input over this agent's result, the same reply address."""
    return replace(
        task,
        task_id=next_hop_id(task.task_id),
        agent=task.slip[0],
        slip=task.slip[1:],
        input=task.input if by_reference else {**result, **task.input},
        input_from=task.task_id if by_reference else None,
    )


APPROVAL_REQUIRED = "ApprovalRequired"
"""Type of the failure of a task that pauses: the workflow asks for the approvals, then makes another try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalNeeded:
    """A call of a gated tool that waits for people."""

    approval_id: str
    action: str
    """`<agent>.<tool>`, as approval policy names it."""
    description: str
    args: JsonObject
    risk_level: Literal["low", "medium", "high"]
    """The least; policy may raise it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCallNeeded:
    """A call of an MCP tool that a task asks for. The worker has the tool gateway make it, as a task of its own."""

    call_id: str
    """The id of that task; it begins with `mcp_call_id_prefix` of the task that asks."""
    tool: str
    """`<server>.<tool>`."""
    arguments: JsonObject


def mcp_call_id_prefix(task_id: str) -> str:
    """Return how the ids of the calls begin that a task asks for; no mark of a hop is in them."""
    return f"{task_id.replace(HOP_MARK, '-')}.mcp."


def is_mcp_call_id(task_id: str, call_id: str) -> bool:
    """Whether a call of that id can be one that the task asks for."""
    return call_id.startswith(mcp_call_id_prefix(task_id)) and _CALL_ID.fullmatch(call_id) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An agent's answer that it could not do the task."""

    type: str
    """The exception's class name, `ValueError` for input that can never work."""
    message: str
    retryable: bool
    approvals: list[ApprovalNeeded] = field(default_factory=list)
    """What the task waits for, when `type` is `ApprovalRequired`."""
    calls: list[McpCallNeeded] = field(default_factory=list)
    """Calls of MCP tools that it waits for, then."""
    retry_after_s: float | None = None
    """The soonest that another try makes sense, in seconds from now; None leaves it to the workflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReference:
    """Stands for a result too large for a workflow's history; the row is `flotilla.agent_tasks`."""

    task_id: str
    sha256: str
    """Over the result as `flotilla.contracts.results.canonical` writes it, so is its size."""
    size_bytes: int
    summary: str


ReplyStatus: TypeAlias = Literal["done", "failed", "progress", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentReply:
    """What an agent sends to its own stream `flotilla.replies.<agent>`.

    `done` and `failed` end the attempt; `progress` becomes a heartbeat of the waiting activity. Which activity waits,
    and what comes next in a slip, is on record: a reply can't say it.
    """

    task_id: str
    agent: str
    tenant_id: str
    session_id: str
    status: ReplyStatus
    attempt: int = 1
    run_id: str | None = None
    reply_to: ReplyAddress | None = None
    """Ignored; former versions sent it."""
    result: JsonObject | None = None
    result_ref: ResultReference | None = None
    failure: Failure | None = None
    progress: str | None = None
    final: bool = True
    """False for a hop of a routing slip that handed over to the next agent."""
    persisted: bool = False
    """True when the agent wrote result and events itself, which the bridge then reads; a foreign agent leaves it false
    and the bridge writes."""
    announces: str | None = None
    """Type of the announcement on `flotilla.events` that the bridge makes of a `done`: `<dotted name>.completed.v1`."""
    events: list[JsonObject] = field(default_factory=list)
    """A foreign agent's session events: objects with `kind` and `data`."""
    escaped: list[str] = field(default_factory=list)
    """Where in the reply, as JSON pointers, text stands for what no store holds. Anyone who reads it writes this."""
    unreadable: str | None = None
    """Why it can't be used, where its reader left out what it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCompleted:
    """Data of the announcements on `flotilla.events`: `flotilla.<agent>.completed.v1` and the like."""

    task_id: str
    agent: str
    attempt: int
    duration_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResearchTask:
    """Input of agent `research`."""

    query: str
    top_k: int = 5
    history: list["Turn"] = field(default_factory=list)
    """What was said before, oldest first: a follow-up is put into its words before it searches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A retrieved piece of a document. Its text is data, never an instruction."""

    text: str
    source: Source
    by_words: float | None = None
    """The share of the question's weight that its words hold; None where the search does not say."""
    by_meaning: float | None = None
    """Cosine of its embedding and the question's; None where it was not found by meaning."""
    by_reranker: float | None = None
    """How well it answers, by the scale of the model that `FLOTILLA_RERANK_URL` names; None where it was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResearchResult:
    """Result of agent `research`: passages, best first."""

    query: str
    passages: list[Passage]
    searched_for: str = ""
    """What the search got: the question, or a follow-up in the words of what was said before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An earlier exchange of the session."""

    query: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteTask:
    """Input of agent `write`: a question, and the passages it may cite. In a slip it gets the research result."""

    query: str
    passages: list[Passage] = field(default_factory=list)
    history: list[Turn] = field(default_factory=list)
    searched_for: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """Tokens that a model counted, in tokens."""

    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    """The endpoint did not count them, or only in part."""


FinishReason: TypeAlias = Literal["stop", "length", "refusal", "tool_calls"]
"""Why an answer ended: complete, cut off at its longest, declined by the model, or in calls of tools."""
ConfidenceBasis: TypeAlias = Literal["token_logprobs", "retrieval_scores", "calibrated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A sentence of an answer, held against the passages that it cites."""

    start: int
    """Offset in characters within the answer."""
    end: int
    """Where it ends, its citations included."""
    sources: list[int]
    """Numbers of the sources that it rests on, from 1."""
    supported: bool | None
    """None where that can't be checked, as of a sentence in another language than its sources."""
    support: float
    """How much of it the sources say, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedCitation:
    """A citation that the model wrote and that supports nothing of what it was put to."""

    statement: str
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """Result of agent `write`."""

    answer: str
    sources: list[Source]
    confidence: float
    """From 0 to 1."""
    confidence_basis: ConfidenceBasis
    model: str
    usage: TokenUsage = field(default_factory=TokenUsage)
    finish_reason: FinishReason = "stop"
    searched_for: str = ""
    """What the search got where that is not what was asked, as for a follow-up; else empty."""
    abstained: bool = False
    """The fleet declined to answer: what was found is not likely to answer the question, or the model declined."""
    statements: list[Statement] = field(default_factory=list)
    """The answer's sentences, in order."""
    dropped_citations: list[DroppedCitation] = field(default_factory=list)
    features: dict[str, float] = field(default_factory=dict)
    """What the confidence is computed from."""
