"""What every language model looks like to an agent: one request, one answer, tokens on the way."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from flotilla.contracts.errors import Refused, RetryLater
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.tasks import FinishReason, Passage, TokenUsage

OnToken: TypeAlias = Callable[[str], Awaitable[None]]
"""Takes each piece of text as the model writes it."""
FallbackReason: TypeAlias = Literal["unavailable", "timed_out", "circuit_open"]
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


class ModelRefused(Refused):
    """The endpoint will never answer this request as it is: key, model name, content, or an empty account."""

    model: str | None = None
    """Which one of a chain."""
    usage: TokenUsage | None = None
    """What the endpoint counts for it nevertheless; None where it wrote nothing."""


class ModelUnavailable(RetryLater):
    """The endpoint is busy, broken or unreachable; the same request may succeed later.

    `retry_after_s` is how long the endpoint asks to wait, in seconds; None where it named no time.
    """

    model: str | None = None
    """Which one of a chain."""
    usage: TokenUsage | None = None
    """What the endpoint counts for it nevertheless; None where it wrote nothing."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelTimedOut(ModelUnavailable):
    """No complete answer within the time that the policy allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRequest:
    """A model's wish to call a tool. `arguments` is JSON as the model wrote it: check it before use."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One message. Retrieved text and tool output belong in `user` or `tool`, never in `system`."""

    role: Role
    content: str
    images: tuple[str, ...] = ()
    """Of a `user` message: addresses that the endpoint can fetch, or `data:` URLs."""
    tool_calls: tuple[ToolRequest, ...] = ()
    """Of an `assistant` message."""
    tool_call_id: str | None = None
    """Of a `tool` message: which request it answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool that the model may ask for; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounding:
    """The question and the passages behind a request, for models that quote instead of write."""

    query: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """Everything that decides the answer; its hash is the key under which the answer is stored."""

    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = "auto"
    """`auto`; `none` makes the model answer although it has tools; `required`; or the name of the tool to call."""
    response_format: JsonObject | None = None
    """As in OpenAI's API: `{"type": "json_object"}`, or `json_schema` with a schema."""
    max_tokens: int | None = None
    """Longest answer, in tokens; None leaves it to the endpoint."""
    temperature: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts at which the answer ends."""
    reasoning: Literal["none", "minimal", "low", "medium", "high"] | None = None
    """How much a reasoning model thinks first; None leaves it to the endpoint."""
    grounding: Grounding | None = None
    body: JsonObject | None = field(default=None, hash=False)
    """A whole request in OpenAI's form (`flotilla.llm.chat_request`), sent as it is. The other fields then say in part
    what is in it, for models that read no such body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedModel:
    """A model of a chain that did not answer, so that the next one was asked."""

    model: str
    reason: FallbackReason
    usage: TokenUsage | None = None
    """What its endpoint counts nevertheless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A model's answer."""

    text: str
    model: str
    """As the endpoint names it."""
    finish_reason: FinishReason = "stop"
    """`length`: the answer was cut off at the longest that is allowed. `refusal`: the model declines, in `text`."""
    usage: TokenUsage = field(default_factory=TokenUsage)
    logprobs: tuple[float, ...] = ()
    """Natural logarithm of each token's probability; empty where the endpoint gives none."""
    tool_calls: tuple[ToolRequest, ...] = ()
    cached_input_tokens: int = 0
    """Those of `usage.input_tokens` that the endpoint had in its cache."""
    response_id: str = ""
    """The endpoint's name for the answer."""
    more: JsonObject = field(default_factory=dict, hash=False)
    """Of a request with a body: other fields of the message as the endpoint sent them (`reasoning_content`,
    `annotations`), and under `logprobs` the tokens' probabilities."""
    answered_by: str = ""
    """The model that was asked for it: another than the agent's where a fallback answered."""
    fallbacks: tuple[SkippedModel, ...] = ()
    """The models that were passed over."""
    escaped: bool = False
    """Texts in it hold escapes such as `\\u0000` for characters that no store holds."""


class LanguageModel(Protocol):
    """A provider behind one call. It never retries: retries belong to the workflow's policy."""

    @property
    def name(self) -> str:
        """The model that is asked for."""

    @property
    def provider(self) -> str:
        """Who runs it, as OpenTelemetry's GenAI conventions name it."""

    async def complete(self, request: CompletionRequest, on_token: OnToken | None = None) -> Completion:
        """Answer `request`, giving its text to `on_token` piece by piece.

        Raises:
            ModelRefused: it will never answer this.
            ModelUnavailable: not now; ModelTimedOut: not in time.
        """

    async def close(self) -> None:
        """Release its connections."""
