"""Tool calls put together from the deltas of a streamed answer, in the dialects that endpoints speak.

OpenAI numbers parallel calls by `index`. Others use index 0 for all of them or none, repeat the name in each delta,
give each delta an id of its own, or send the arguments as an object; a name after complete arguments then begins the
next call. Arguments that are JSON with a known flaw are read as what they mean (`repair_arguments`).
"""

import ast
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

from flotilla.llm.answer_text import to_well_formed_unicode
from flotilla.llm.model import ToolRequest

_NONE = "{}"
_FENCE = "```"
# A string that nothing closes goes to the end: a search that fails would begin again at each of its quotes.
_STRING_OR_LAST_COMMA = re.compile(r'(?P<string>"(?:[^"\\]++|\\.)*+\\?(?:"|\Z))|,(?=\s*[}\]])', re.DOTALL)
_LONGEST_PYTHON = 100_000
_LONGEST_NUMBER = 12


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
        """Add to the arguments. What follows a whole object repeats it, and is left out; an empty one that others
        follow only said that there will be some."""
        if self.is_complete and "".join(self.arguments).strip() == _NONE:
            self.arguments, self.is_complete = [], False
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


class ToolCallAssembler:
    """Takes the deltas in order."""

    def __init__(self, offered: Collection[str]) -> None:
        self._offered = offered
        self._calls: list[_Call] = []

    def add(self, delta: object) -> None:
        """Take one element of `delta.tool_calls`; others are left out."""
        if not isinstance(delta, Mapping):
            return
        function = delta.get("function")
        function = function if isinstance(function, Mapping) else delta
        call_id, name = _text(delta.get("id")), _text(function.get("name"))
        arguments = function.get("arguments")
        piece = "" if arguments is None else _as_json(arguments)
        call = self._call_of(_number(delta.get("index")), call_id, name, piece)
        call.call_id = call.call_id or call_id
        call.name = self._joined(call.name, name)
        if piece:
            call.add(piece)

    def add_whole(self, name: str, arguments: object) -> None:
        """Take a call that came in one piece."""
        call = _Call(index=None, name=name)
        call.add(_as_json(arguments))
        self._calls.append(call)

    def tool_requests(self) -> Iterator[ToolRequest]:
        """Yield the calls, each with an id of its own."""
        taken: set[str] = set()
        for n, call in enumerate(call for call in self._calls if call.name or call.arguments):
            call_id = call.call_id if call.call_id and call.call_id not in taken else f"call_{n}"
            taken.add(call_id)
            arguments = repair_arguments("".join(call.arguments).strip() or _NONE)
            yield ToolRequest(
                call_id=to_well_formed_unicode(call_id),
                name=to_well_formed_unicode(self._offered_as(call.name)),
                arguments=arguments,
            )

    def _offered_as(self, name: str) -> str:
        """The offered tool that is meant: models add blanks, and the namespace that their training had."""
        bare = name.strip().rpartition(".")[2]
        return bare if name not in self._offered and bare in self._offered else name

    def _call_of(self, index: object, call_id: str, name: str, piece: str) -> _Call:
        """The call that a delta goes on with, or a new one."""
        known = [call for call in self._calls if call_id and call.call_id == call_id]
        if known and not _is_another(known[0], index, piece):
            return known[0]
        last = self._last(index)
        if last is None or self._begins_another(last, call_id, name):
            last = _Call(index)
            self._calls.append(last)
        return last

    def _last(self, index: object) -> _Call | None:
        """The newest call with that index; without one, the newest of all."""
        return next((call for call in reversed(self._calls) if index is None or call.index == index), None)

    def _begins_another(self, last: _Call, call_id: str, name: str) -> bool:
        if call_id and last.call_id and (name or last.is_complete):
            return True  # an id that no call has yet
        if not name:
            return False
        return last.is_complete or (last.name in self._offered and name in self._offered and name != last.name)

    def _joined(self, name: str, piece: str) -> str:
        """`name` with the next piece: a fragment is added, a repetition is not."""
        if not piece or piece == name or name in self._offered:
            return name or piece
        return piece if piece.startswith(name) else name + piece


def repair_arguments(text: str) -> str:
    """Return the JSON object that `text` means, or `text` as it is where that is not certain.

    Models and their servers write objects twice encoded, between code fences, with a comma after the last member, with
    control characters in strings, or as Python would print them.
    """
    if is_json_object(text):
        return text
    plain = _without_fences(text.strip())
    for read in (_strings_with_control_characters, _without_last_commas, _as_python):
        try:
            document = read(plain)
            if isinstance(document, str):
                document = json.loads(document)
            if isinstance(document, dict):
                return json.dumps(document, ensure_ascii=False)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def is_json_object(text: str) -> bool:
    """Return whether `text` is one whole JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _without_fences(text: str) -> str:
    if text.startswith(_FENCE):
        text = text.removeprefix(_FENCE).lstrip(ascii_lowercase)
    return text.removesuffix(_FENCE).strip()


def _strings_with_control_characters(text: str) -> object:
    return json.loads(text, strict=False)


def _without_last_commas(text: str) -> object:
    return json.loads(_STRING_OR_LAST_COMMA.sub(lambda found: found["string"] or "", text), strict=False)


def _as_python(text: str) -> object:
    return ast.literal_eval(text) if len(text) <= _LONGEST_PYTHON else None


def _is_another(call: _Call, index: object, piece: str) -> bool:
    """Whether a delta with the id of `call` is a call of its own: some give all of theirs one id."""
    return call.is_complete and call.index != index and bool(piece) and piece != "".join(call.arguments)


def _as_json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)[:_LONGEST_NUMBER]
    return value if isinstance(value, str) else ""


def _number(index: object) -> object:
    return int(index) if isinstance(index, str) and index.isdecimal() and len(index) < _LONGEST_NUMBER else index
