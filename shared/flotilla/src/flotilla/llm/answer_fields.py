"""Fields of an answer's message that have no meaning here, kept for a caller that knows them."""

from collections.abc import Mapping
from typing import Any

_KNOWN = frozenset(("role", "content", "refusal", "tool_calls", "function_call"))
MAX_FIELDS = 32


class AnswerFieldMerger:
    """Takes the deltas of a stream, or one whole message: texts and lists are joined, else the last value counts."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[Any]] = {}

    def add(self, delta: Mapping[str, Any], logprobs: object) -> None:
        """Take the fields of one delta, and the probabilities of its tokens."""
        for name, value in delta.items():
            if name not in _KNOWN and value is not None and (name in self._pieces or len(self._pieces) < MAX_FIELDS):
                self._pieces.setdefault(name, []).append(value)
        tokens = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        if isinstance(tokens, list):
            self._pieces.setdefault("logprobs", []).append(tokens)

    def merged_fields(self) -> dict[str, Any]:
        """Return what came so far, by name."""
        return {name: _joined(pieces) for name, pieces in self._pieces.items()}


def _joined(pieces: list[Any]) -> Any:
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    if all(isinstance(piece, list) for piece in pieces):
        return [element for piece in pieces for element in piece]
    return pieces[-1]
