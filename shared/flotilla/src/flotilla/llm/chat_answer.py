"""One answer put together from what an endpoint sends: chunks of a stream, or a whole completion.

Nothing is taken for granted: any field may be missing, null, of another type, or come twice.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from flotilla.contracts.tasks import FinishReason, TokenUsage
from flotilla.llm.answer_calls import AnswerCalls, is_json_object
from flotilla.llm.answer_fields import AnswerFields
from flotilla.llm.answer_text import AnswerText, well_formed
from flotilla.llm.answer_usage import AnswerUsage
from flotilla.llm.model import Completion, ModelRefused, ModelUnavailable, ToolRequest

_FINISHED: Mapping[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "refusal": "refusal",
}
"""Every other reason means that the answer is complete, however the endpoint names it."""
_FILTERED = frozenset(("content_filter", "safety", "recitation", "blocklist", "prohibited_content"))
_FAILED = frozenset(("error", "abort", "aborted", "cancelled"))
_MAX_MODEL_CHARACTERS = 200
_LOWEST_LOGPROB = -100.0
"""Endpoints write -9999 or -inf for a probability that they do not know."""


class ChatAnswer:
    """Takes the documents of an answer in order."""

    def __init__(
        self,
        model: str,
        tools: Collection[str],
        input_characters: int,
        *,
        begins_with_reasoning: bool,
        keeps_all: bool = False,
    ) -> None:
        self._model = model
        self._more = AnswerFields() if keeps_all else None
        self._response_id = ""
        self._input_characters = input_characters
        self._text = AnswerText(tools, begins_with_reasoning=begins_with_reasoning)
        self._visible: list[str] = []
        self._output_characters = 0
        self._refusal: list[str] = []
        self._logprobs: list[float] = []
        self._unknown_logprobs = 0
        self._calls = AnswerCalls(tools)
        self._usage = AnswerUsage()
        self._finish_reason = ""
        self._has_begun = False

    def add(self, document: object) -> str:
        """Take one chunk, or a whole completion; return the text in it that is certain by now."""
        if not isinstance(document, Mapping):
            return ""
        if (model := document.get("model")) and isinstance(model, str):
            self._model = well_formed(model[:_MAX_MODEL_CHARACTERS])
        if not self._response_id and isinstance(response_id := document.get("id"), str):
            self._response_id = well_formed(response_id[:_MAX_MODEL_CHARACTERS])
        self._has_begun = True
        self._usage.add(document.get("usage"))
        return "".join(self._of_choice(choice) for choice in _first_choices(document.get("choices")))

    def mark_complete(self) -> None:
        """Note that the endpoint said the answer is complete, so that it may do without a finish reason."""
        self._finish_reason = self._finish_reason or "stop"

    def end(self) -> str:
        """Return the text that was still held back."""
        return self._show(self._text.end())

    @property
    def usage(self) -> TokenUsage | None:
        """The tokens of what came so far; None if nothing did."""
        if not self._has_begun:
            return None
        return self._usage.tokens(self._input_characters, self._output_characters)

    def completion(self) -> Completion:
        """Return the whole answer; call `end` first.

        Raises:
            ModelUnavailable: the stream ended before the answer did.
            ModelRefused: there is nothing to use in it, and the same request would bring no more.
        """
        self._check_complete()
        for call in self._text.calls:
            self._calls.add_whole(call["name"], call["arguments"])
        calls = tuple(self._calls.requests())
        text, refused = "".join(self._visible), well_formed("".join(self._refusal))
        reason: FinishReason = "refusal" if refused else _FINISHED.get(self._finish_reason, "stop")
        if self._more is None:
            self._check_usable(text or refused, calls, reason)
        return Completion(
            text=text or refused,
            model=self._model,
            finish_reason="tool_calls" if calls and (reason != "length" or self._more is None) else reason,
            usage=self.usage or TokenUsage(),
            logprobs=self._known_logprobs(),
            tool_calls=calls,
            cached_input_tokens=self._usage.cached_input_tokens,
            response_id=self._response_id,
            more=self._more.joined() if self._more else {},
        )

    def _check_usable(self, text: str, calls: Sequence[ToolRequest], reason: FinishReason) -> None:
        if reason == "length" and any(not is_json_object(call.arguments) for call in calls):
            raise ModelRefused(f"model {self._model}: the answer was cut off inside a tool call; {_LENGTH_HINT}")
        if not calls and not text.strip():
            raise ModelRefused(self._nothing_written(reason))

    def _of_choice(self, choice: Mapping[str, Any]) -> str:
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self._finish_reason = reason.lower()
        self._take_logprobs(choice.get("logprobs"))
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, Mapping):
            return self._feed(text_of(choice.get("text")))
        for call in _listed(delta.get("tool_calls")):
            self._calls.add(call)
        self._add_function_call(delta.get("function_call"))
        if self._more is not None:
            self._more.add(delta, choice.get("logprobs"))
        self._output_characters += len(text_of(delta.get("reasoning_content") or delta.get("reasoning")))
        self._refusal.append(text_of(delta.get("refusal")))
        return self._feed(text_of(delta.get("content")))

    def _add_function_call(self, call: object) -> None:
        """The form that came before `tool_calls`; some endpoints still speak it."""
        if isinstance(call, Mapping):
            self._calls.add({"index": "function_call", "function": call})

    def _feed(self, piece: str) -> str:
        self._output_characters += len(piece)
        return self._show(self._text.feed(piece))

    def _show(self, text: str) -> str:
        self._visible.append(text)
        return text

    def _take_logprobs(self, logprobs: object) -> None:
        tokens = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        for token in _listed(tokens):
            value = token.get("logprob") if isinstance(token, Mapping) else None
            if isinstance(value, int | float) and math.isfinite(value) and value > _LOWEST_LOGPROB:
                self._logprobs.append(min(float(value), 0.0))
            else:
                self._unknown_logprobs += 1

    def _known_logprobs(self) -> tuple[float, ...]:
        """None at all when most are unknown: a confidence from the few others would mean nothing."""
        return tuple(self._logprobs) if len(self._logprobs) > self._unknown_logprobs else ()

    def _check_complete(self) -> None:
        if self._finish_reason in _FILTERED:
            raise ModelRefused(f"model {self._model}: the endpoint's content filter kept the answer back")
        if self._finish_reason in _FAILED:
            raise ModelUnavailable(
                f"model {self._model} broke off its answer: it ended with finish_reason {self._finish_reason!r}"
            )
        if not self._finish_reason:
            raise ModelUnavailable(
                f"model {self._model} broke off its answer: the stream ended without a finish_reason"
            )

    def _nothing_written(self, reason: FinishReason) -> str:
        if reason == "length":
            thought = " while it was still reasoning" if self._output_characters else ""
            return (
                f"model {self._model} used all the tokens that it may write{thought}, without an answer; {_LENGTH_HINT}"
            )
        if self._output_characters:
            return (
                f"model {self._model} wrote only its reasoning, and no answer (finish_reason {self._finish_reason!r})"
            )
        return f"model {self._model} wrote an empty answer (finish_reason {self._finish_reason!r})"


_LENGTH_HINT = "raise FLOTILLA_LLM_MAX_OUTPUT_TOKENS, or the limit of the endpoint"


def text_of(content: object) -> str:
    """Return the text of a message's content: a text, or a list of parts of which the texts count."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return text_of(content.get("text")) if content.get("type", "text") in ("text", "output_text") else ""
    return "".join(map(text_of, content)) if isinstance(content, list) else ""


def _first_choices(choices: object) -> Iterator[Mapping[str, Any]]:
    """The first alternative only; one was asked for."""
    return (one for one in _listed(choices) if isinstance(one, Mapping) and not one.get("index"))


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
