"""The visible text of a streamed answer: without the model's reasoning, and without tool calls written as text.

Reasoning stands at the beginning (`<think>…</think>` and the like). Tool calls in the text are those of Hermes and Qwen
(`<tool_call>`), Mistral (`[TOOL_CALLS]`), Llama (`<|python_tag|>`), or a whole answer that is one JSON call. They count
only where tools were offered, and only for an offered name; all else stays text.
"""

import json
from collections.abc import Collection
from enum import Enum
from typing import Any

_REASONING = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "[THINK]": "[/THINK]",
    "<seed:think>": "</seed:think>",
    "◁think▷": "◁/think▷",
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",
}
_TO_THE_END = ""
_CALLS = {
    "<tool_call>": "</tool_call>",
    "<function_call>": "</function_call>",
    "[TOOL_CALLS]": _TO_THE_END,
    "<|python_tag|>": _TO_THE_END,
}
_JSON_CALLS = tuple(
    fence + beginning
    for fence in ("", "```json", "```")
    for beginning in ('{"name":', '{"function":', '{"tool', '[{"name":', '[{"function":', '{"type":"function"')
)
_LONGEST_BEGINNING = 64
_HIGH_SURROGATES = range(0xD800, 0xDC00)


class _Part(Enum):
    BEGINNING = 1
    REASONING = 2
    TEXT = 3
    CALL = 4
    JSON_CALL = 5


class AnswerTextAssembler:
    """Takes the pieces of an answer in order. Work is linear in the text, however it is cut into pieces."""

    def __init__(self, tools: Collection[str] = (), *, begins_with_reasoning: bool = False) -> None:
        self._tools = tools
        self._part = _Part.REASONING if begins_with_reasoning else _Part.BEGINNING
        self._until = "</think>" if begins_with_reasoning else ""
        self._opened_by = ""
        self._tail = ""
        self._kept: list[str] = []
        self._surrogate = ""
        self._is_after_reasoning = False
        self.calls: list[dict[str, Any]] = []
        """Tool calls found in the text: `name` and `arguments`, a JSON text."""

    def feed(self, piece: str) -> str:
        """Return the visible text that is certain by now."""
        piece = self._surrogate + piece
        self._surrogate = piece[-1:] if piece and ord(piece[-1]) in _HIGH_SURROGATES else ""
        return self._visible(to_well_formed_unicode(piece.removesuffix(self._surrogate) if self._surrogate else piece))

    def end(self) -> str:
        """Return the visible text that was still held back."""
        shown = self._visible(to_well_formed_unicode(self._surrogate))
        self._surrogate = ""
        rest = "".join(self._kept) + self._tail
        self._kept, self._tail = [], ""
        if self._part is _Part.REASONING:
            return shown
        if self._part in (_Part.CALL, _Part.JSON_CALL):
            return shown + self._call_or_text(rest, closed=False)
        return shown + (rest.lstrip() if self._is_after_reasoning else rest)

    def _visible(self, text: str) -> str:
        shown: list[str] = []
        while text:
            match self._part:
                case _Part.BEGINNING:
                    text = self._begin(text)
                case _Part.TEXT:
                    visible, text = self._pass_on(text)
                    shown.append(visible)
                case _Part.JSON_CALL:
                    self._kept.append(text)
                    text = ""
                case _:
                    visible, text = self._swallow(text)
                    shown.append(visible)
        return "".join(shown)

    def _begin(self, text: str) -> str:
        """Decide what the answer begins with; return what is left to look at."""
        held, self._tail = self._tail + text, ""
        start = held.lstrip()
        for opening, closing in _REASONING.items():
            if start.startswith(opening):
                self._part, self._until = _Part.REASONING, closing
                return start[len(opening) :]
        if self._is_json_call(start):
            self._part = _Part.JSON_CALL
            return held
        if len(held) < _LONGEST_BEGINNING and self._may_become_special(start):
            self._tail = held
            return ""
        self._part = _Part.TEXT
        return start if self._is_after_reasoning else held

    def _is_json_call(self, start: str) -> bool:
        return bool(self._tools) and _compact(start).startswith(_JSON_CALLS)

    def _may_become_special(self, start: str) -> bool:
        compact = _compact(start)
        beginnings = _JSON_CALLS if self._tools else ()
        return any(opening.startswith(start) for opening in _REASONING) or any(
            beginning.startswith(compact) for beginning in beginnings
        )

    def _pass_on(self, text: str) -> tuple[str, str]:
        """Visible text up to a tool call's opening; its possible beginning is held back."""
        text, self._tail = self._tail + text, ""
        if not self._tools:
            return text, ""
        at, opening = min(
            ((place, opening) for opening in _CALLS if (place := text.find(opening)) >= 0), default=(-1, "")
        )
        if at >= 0:
            self._part, self._until, self._opened_by = _Part.CALL, _CALLS[opening], opening
            return text[:at], text[at + len(opening) :]
        held = max(_overlap(text, opening) for opening in _CALLS)
        self._tail = text[len(text) - held :]
        return text[: len(text) - held], ""

    def _swallow(self, text: str) -> tuple[str, str]:
        """Take what belongs to reasoning or to a call; return what becomes visible, and the rest."""
        text, self._tail = self._tail + text, ""
        at = text.find(self._until) if self._until else -1
        if at < 0:
            held = _overlap(text, self._until)
            self._keep(text[: len(text) - held])
            self._tail = text[len(text) - held :]
            return "", ""
        self._keep(text[:at])
        rest = text[at + len(self._until) :]
        if self._part is _Part.REASONING:
            self._part, self._is_after_reasoning = _Part.BEGINNING, True
            return "", rest
        kept, self._kept = "".join(self._kept), []
        self._part = _Part.TEXT
        return self._call_or_text(kept, closed=True), rest

    def _keep(self, text: str) -> None:
        if self._part is not _Part.REASONING:
            self._kept.append(text)

    def _call_or_text(self, text: str, *, closed: bool) -> str:
        calls = tool_calls_in_text(text, self._tools)
        if calls:
            self.calls.extend(calls)
            return ""
        return f"{self._opened_by}{text}{self._until if closed else ''}"


def tool_calls_in_text(text: str, tools: Collection[str]) -> list[dict[str, Any]]:
    """Return the tool calls that `text` consists of; none if anything else is in it, or a tool was not offered."""
    plain = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    name = plain.partition("{")[0].removesuffix("[ARGS]")
    try:
        if name in tools:  # as Mistral writes it: name{"argument": 1}
            return [{"name": name, "arguments": json.loads(plain.partition(name)[2].removeprefix("[ARGS]"))}]
        document = json.loads(plain)
    except (ValueError, RecursionError):
        return []
    found = [_call(one) for one in (document if isinstance(document, list) else [document])]
    calls = [call for call in found if call is not None and call["name"] in tools]
    return calls if len(calls) == len(found) else []


def _call(document: object) -> dict[str, Any] | None:
    if not isinstance(document, dict):
        return None
    function = document.get("function")
    if isinstance(function, dict):
        document = function
    name = document.get("name", function)
    arguments = document.get("arguments", document.get("parameters", {}))
    return {"name": name, "arguments": arguments} if isinstance(name, str) else None


def to_well_formed_unicode(text: str) -> str:
    """Return `text` as Unicode that every store holds: surrogate pairs joined, lone surrogates and NUL as U+FFFD."""
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\x00", "\ufffd")


def _compact(start: str) -> str:
    return "".join(start[:_LONGEST_BEGINNING].split())


def _overlap(text: str, marker: str) -> int:
    """How many characters at the end of `text` may begin `marker`."""
    longest = min(len(marker) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(marker[:n])), 0)
