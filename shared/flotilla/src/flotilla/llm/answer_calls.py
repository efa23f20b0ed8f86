"""Tool calls put together from the deltas of a streamed answer, in the dialects that endpoints speak.

OpenAI numbers parallel calls by `index`. Others use index 0 for all of them or none, repeat the name in each delta, or
send the arguments as an object; a new id, or a name after complete arguments, then begins the next call.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flotilla.llm.answer_text import well_formed
from flotilla.llm.model import ToolRequest


@dataclass(slots=True)
class _Call:
    index: object
    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    _depth: int = 0
    _in_string: bool = False
    _is_escaped: bool = False
    is_complete: bool = False
    """The arguments are a whole JSON object. Followed character by character, so that it costs the same however they
    are cut."""

    def add(self, piece: str) -> None:
        """Add to the arguments. What follows a whole object repeats it, and is left out."""
        if self.is_complete:
            return
        self.arguments.append(piece)
        for character in piece:
            self._follow(character)

    def _follow(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif self._in_string:
            self._is_escaped = character == "\\"
            self._in_string = character != '"'
        elif character == '"':
            self._in_string = True
        elif character == "{":
            self._depth += 1
        elif character == "}":
            self._depth -= 1
            self.is_complete = self._depth <= 0


class AnswerCalls:
    """Takes the deltas in order."""

    def __init__(self, offered: Collection[str]) -> None:
        self._offered = offered
        self._calls: list[_Call] = []

    def add(self, delta: object) -> None:
        """Take one element of `delta.tool_calls`; others are left out."""
        if not isinstance(delta, Mapping):
            return
        function = delta.get("function")
        function = function if isinstance(function, Mapping) else {}
        call_id, name = _text(delta.get("id")), _text(function.get("name"))
        call = self._call_of(delta.get("index"), call_id, name)
        call.call_id = call.call_id or call_id
        call.name = self._joined(call.name, name)
        arguments = function.get("arguments")
        if arguments is not None and arguments != "":
            call.add(_as_json(arguments))

    def add_whole(self, name: str, arguments: object) -> None:
        """Take a call that came in one piece."""
        call = _Call(index=None, name=name)
        call.add(_as_json(arguments))
        self._calls.append(call)

    def requests(self) -> Iterator[ToolRequest]:
        """Yield the calls, each with an id of its own."""
        taken: set[str] = set()
        for n, call in enumerate(self._calls):
            call_id = call.call_id if call.call_id and call.call_id not in taken else f"call_{n}"
            taken.add(call_id)
            arguments = "".join(call.arguments).strip() or "{}"
            yield ToolRequest(call_id=well_formed(call_id), name=well_formed(call.name), arguments=arguments)

    def _call_of(self, index: object, call_id: str, name: str) -> _Call:
        """The call that a delta goes on with, or a new one."""
        if call_id and (known := next((call for call in self._calls if call.call_id == call_id), None)):
            return known
        last = self._last(index)
        if last is None or self._begins_another(last, call_id, name):
            last = _Call(index)
            self._calls.append(last)
        return last

    def _last(self, index: object) -> _Call | None:
        """The newest call with that index; without one, the newest of all."""
        return next((call for call in reversed(self._calls) if index is None or call.index == index), None)

    def _begins_another(self, last: _Call, call_id: str, name: str) -> bool:
        if call_id and last.call_id:
            return True  # an id that no call has yet
        if not name:
            return False
        return last.is_complete or (last.name in self._offered and name in self._offered and name != last.name)

    def _joined(self, name: str, piece: str) -> str:
        """`name` with the next piece: a fragment is added, a repetition is not."""
        if not piece or piece == name or name in self._offered:
            return name or piece
        return piece if piece.startswith(name) else name + piece


def _as_json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def is_json_object(text: str) -> bool:
    """Return whether `text` is one whole JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
