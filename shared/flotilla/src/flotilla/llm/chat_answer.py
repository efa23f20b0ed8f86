"""One answer put together from what an endpoint sends: chunks of a stream, or a whole completion.

Nothing is taken for granted: any field may be missing, null, of another type, or come twice.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from flotilla.contracts.tasks import FinishReason, TokenUsage
from flotilla.llm.answer_calls import ToolCallAssembler, is_json_object
from flotilla.llm.answer_fields import AnswerFieldMerger
from flotilla.llm.answer_text import AnswerTextAssembler, to_well_formed_unicode
from flotilla.llm.answer_usage import UsageCounter
from flotilla.llm.endpoint_words import to_one_safe_line
from flotilla.llm.model import Completion, ModelRefused, ModelUnavailable, ToolRequest

_UNTOLD = ("", "null", "none")
"""Finish reasons that some endpoints send until there is one."""
_FILTERED = ("filter", "safety", "recitation", "blocklist", "prohibited", "sensitive", "toxic", "guardrail", "spii")
_FAILED = ("error", "abort", "cancel", "timeout", "time_limit", "network", "insufficient", "fail", "interrupt")
_CUT_OFF = ("length", "max_tokens", "max_output", "context_window", "token_limit", "repetition", "pause", "incomplete")
"""What finish reasons have in them, however the endpoint names them. Every other one means that the answer is
complete."""
_REASONING = ("reasoning_content", "reasoning", "reasoning_text", "reasoning_details", "thinking")
_TEXT_PARTS = ("text", "output_text", "reasoning.text", "reasoning.summary")
_LONGEST_NUMBER = 12
_MAX_REASON_CHARACTERS = 100
_MAX_MODEL_CHARACTERS = 200
_LOWEST_LOGPROB = -100.0
"""Endpoints write -9999 or -inf for a probability that they do not know."""


class ChatAnswerAssembler:
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
        self._more = AnswerFieldMerger() if keeps_all else None
        self._response_id = ""
        self._input_characters = input_characters
        self._text = AnswerTextAssembler(tools, begins_with_reasoning=begins_with_reasoning)
        self._visible: list[str] = []
        self._output_characters = 0
        self._refusal: list[str] = []
        self._logprobs: list[float] = []
        self._unknown_logprobs = 0
        self._calls = ToolCallAssembler(tools)
        self._usage = UsageCounter()
        self._finish_reason = ""
        self._has_begun = False
        self._has_delta = False
        self._has_first = False
        self._has_choice = False
        self._others: list[Mapping[str, Any]] = []
        self._other_form = ""

    def add(self, document: object) -> str:
        """Take one chunk, or a whole completion; return the text in it that is certain by now."""
        if not isinstance(document, Mapping):
            self._other_form = self._other_form or "no JSON object"
            return ""
        if "choices" not in document and "usage" not in document:
            self._other_form = self._other_form or _members_of(document)
        if (model := document.get("model")) and isinstance(model, str):
            self._model = to_well_formed_unicode(model[:_MAX_MODEL_CHARACTERS])
        if not self._response_id and isinstance(response_id := document.get("id"), str):
            self._response_id = to_well_formed_unicode(response_id[:_MAX_MODEL_CHARACTERS])
        self._has_begun = True
        self._usage.add_usage(document)
        return "".join(map(self._of_choice, self._first_choices(document)))

    @property
    def is_finished(self) -> bool:
        """Whether the endpoint said that the answer ends here, as a whole."""
        return bool(self._finish_reason) and not _any(_FAILED + _FILTERED, self._finish_reason)

    def mark_complete(self) -> None:
        """Note that the endpoint said the answer is complete, so that it may do without a finish reason."""
        self._finish_reason = self._finish_reason or "stop"

    def end(self) -> str:
        """Return the text that was still held back: all of it where no alternative has the number 0."""
        others, self._others = self._others, []
        late = "" if self._has_first else "".join(map(self._of_choice, others))
        return late + self._show(self._text.end())

    @property
    def tokens_so_far(self) -> TokenUsage | None:
        """The tokens of what came so far; None if nothing did."""
        if not self._has_begun:
            return None
        return self._usage.usage_to_charge(self._input_characters, self._output_characters)

    def to_completion(self) -> Completion:
        """Return the whole answer; call `end` first.

        Raises:
            ModelUnavailable: the stream ended before the answer did.
            ModelRefused: there is nothing to use in it, and the same request would bring no more.
        """
        self._check_complete()
        for call in self._text.calls:
            self._calls.add_whole(call["name"], call["arguments"])
        calls = tuple(self._calls.tool_requests())
        text, refused = "".join(self._visible), to_well_formed_unicode("".join(self._refusal))
        reason = self._reason(refused)
        if self._more is None:
            self._check_usable(text or refused, calls, reason)
        return Completion(
            text=text or refused,
            model=self._model,
            finish_reason="tool_calls" if calls and (reason != "length" or self._more is None) else reason,
            usage=self.tokens_so_far or TokenUsage(),
            logprobs=self._known_logprobs(),
            tool_calls=calls,
            cached_input_tokens=self._usage.cached_input_tokens,
            response_id=self._response_id,
            more=self._more.merged_fields() if self._more else {},
        )

    def _reason(self, refused: str) -> FinishReason:
        if refused or self._finish_reason == "refusal":
            return "refusal"
        return "length" if _any(_CUT_OFF, self._finish_reason) else "stop"

    def _first_choices(self, document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The first alternative only; one was asked for. Some endpoints begin to count at 1, or at -1: what has another
        number waits until the end shows that there is none with 0."""
        for choice in _listed(document.get("choices")):
            if not isinstance(choice, Mapping):
                continue
            index = _number_of(choice.get("index"))
            if not index:
                self._has_first = True
                yield choice
            elif not self._others or _number_of(self._others[0].get("index")) == index:
                self._others.append(choice)

    def _check_usable(self, text: str, calls: Sequence[ToolRequest], reason: FinishReason) -> None:
        if reason == "length" and any(not is_json_object(call.arguments) for call in calls):
            raise ModelRefused(f"model {self._model}: the answer was cut off inside a tool call; {_LENGTH_HINT}")
        if not calls and not any(character.isprintable() and not character.isspace() for character in text):
            raise ModelRefused(self._nothing_written(reason))

    def _of_choice(self, choice: Mapping[str, Any]) -> str:
        self._has_choice = True
        self._finish_reason = _finish_reason_in(choice) or self._finish_reason
        self._usage.add(choice.get("usage"))
        self._take_logprobs(choice.get("logprobs"))
        delta = self._delta_of(choice)
        if not isinstance(delta, Mapping):
            return self._feed(message_text(choice.get("text")) or message_text(delta))
        for call in _listed(delta.get("tool_calls")):
            self._calls.add(call)
        self._add_function_call(delta.get("function_call"))
        if self._more is not None:
            self._more.add(delta, choice.get("logprobs"))
        self._output_characters += max(len(message_text(delta.get(name))) for name in _REASONING)
        self._refusal.append(_refusal_in(delta))
        return self._feed(message_text(delta.get("content")))

    def _delta_of(self, choice: Mapping[str, Any]) -> object:
        """A stream's piece, or the whole message; some end a stream with the message of all its pieces."""
        if delta := choice.get("delta"):
            self._has_delta = True
            return delta
        return None if self._has_delta else choice.get("message")

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
            if isinstance(value, int | float) and _LOWEST_LOGPROB < value < math.inf:
                self._logprobs.append(float(min(value, 0)))
            else:
                self._unknown_logprobs += 1

    def _known_logprobs(self) -> tuple[float, ...]:
        """None at all when most are unknown: a confidence from the few others would mean nothing."""
        return tuple(self._logprobs) if len(self._logprobs) > self._unknown_logprobs else ()

    def _check_complete(self) -> None:
        if self._other_form and not self._has_choice:
            raise ModelRefused(
                f"model {self._model} answered in a form that is no chat completion ({self._other_form}); "
                "check OPENAI_BASE_URL"
            )
        if _any(_FILTERED, self._finish_reason):
            raise ModelRefused(f"model {self._model}: the endpoint's content filter kept the answer back")
        if _any(_FAILED, self._finish_reason):
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
        if self._output_characters > len("".join(self._visible)):
            return (
                f"model {self._model} wrote only its reasoning, and no answer (finish_reason {self._finish_reason!r})"
            )
        return f"model {self._model} wrote an empty answer (finish_reason {self._finish_reason!r})"


_LENGTH_HINT = "raise FLOTILLA_LLM_MAX_OUTPUT_TOKENS, or the limit of the endpoint"


def message_text(content: object) -> str:
    """Return the text of a message's content: a text, or a list of parts of which the texts count."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        text = content.get("text", content.get("value"))
        return message_text(text) if content.get("type", "text") in _TEXT_PARTS else ""
    return "".join(map(message_text, content)) if isinstance(content, list) else ""


def _refusal_in(delta: Mapping[str, Any]) -> str:
    parts = delta.get("content")
    refused = [part.get("refusal") for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    return message_text(delta.get("refusal")) + message_text([part for part in refused if part])


def _finish_reason_in(choice: Mapping[str, Any]) -> str:
    """In lower case; empty where there is none yet."""
    for key in ("finish_reason", "native_finish_reason", "stop_reason", "finish_details"):
        reason = choice.get(key)
        if isinstance(reason, Mapping):
            reason = reason.get("type")
        if isinstance(reason, str) and reason.lower() not in _UNTOLD:
            return reason.lower()[:_MAX_REASON_CHARACTERS]
    return ""


def _number_of(index: object) -> object:
    return int(index) if isinstance(index, str) and index.isdecimal() and len(index) < _LONGEST_NUMBER else index


def _members_of(document: Mapping[str, Any]) -> str:
    return (
        "with " + to_one_safe_line(", ".join(key[:40] for key in list(document)[:6])) if document else "an empty object"
    )


def _any(words: Sequence[str], text: str) -> bool:
    return any(word in text for word in words)


def _listed(value: object) -> list[Any]:
    """A list, or the one element in place of one."""
    if isinstance(value, Mapping):
        return [value]
    return value if isinstance(value, list) else []
