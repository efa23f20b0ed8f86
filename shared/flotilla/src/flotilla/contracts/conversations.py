"""A conversation whose caller runs functions itself: what a workflow or an agent gets of it, and what it replies."""

from dataclasses import dataclass, field

from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.tasks import FinishReason

CHAT = "chat"
"""The built-in workflow that takes conversations, and the agent that it asks."""
MAX_CALLS_AT_ONCE = 32
"""Of one reply."""
MAX_ARGUMENTS_BYTES = 64 * 1024
"""Of all calls of one reply, as the model wrote them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedCall:
    """A model's wish that the caller runs one of its functions."""

    call_id: str
    """Unique in the conversation; the function's output names it."""
    name: str
    arguments: str
    """As the model wrote it: mostly a JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What was said so far, and the functions that the caller runs, in the form of OpenAI's chat completions.

    Outputs of functions are in messages of role `tool`. They are data from outside, as the caller's messages are.
    """

    messages: list[JsonObject]
    tools: list[JsonObject] = field(default_factory=list)
    tool_choice: JsonValue = "auto"
    parallel_tool_calls: bool = True
    response_format: JsonObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model says, and which functions it wants to be run before it says more."""

    text: str = ""
    calls: list[ProposedCall] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    model: str = ""
