"""The text of an answer while it is written: pieces that never take anything back."""

import io
import re
from dataclasses import dataclass, field

from gateway.openai.errors import AnswerRestarted

_PIECE = re.compile(r"\s{0,16}\S{0,16}")
_LONGEST = 32


@dataclass(slots=True)
class StreamedAnswer:
    """Follows the tokens of a run over all its attempts. What was returned is always the beginning of the answer.

    A later attempt that writes the same text continues where the client is. One that writes another text can't be
    shown: what was sent can't be taken back.
    """

    _sent: io.StringIO = field(default_factory=io.StringIO)
    _length: int = 0
    """Characters sent."""
    _position: int = 0
    """Of the present attempt; behind `_length` while it repeats what was sent."""
    _blank: list[str] = field(default_factory=list)
    """White space that is sent once more text follows: an answer ends without it."""

    def feed(self, token: str) -> str:
        """Return what is new to the client.

        Raises:
            AnswerRestarted: the present attempt writes another text than was sent.
        """
        if not token.strip():
            self._blank.append(token)
            return ""
        text = "".join((*self._blank, token)) if self._position else token.lstrip()
        body = text.rstrip()
        self._blank = [text[len(body) :]]
        return self._advance(body)

    def begin_next_attempt(self) -> None:
        """Begin another attempt."""
        self._position, self._blank = 0, []

    def unsent_answer_text(self, answer: str) -> str:
        """Return the rest of the stored answer.

        Raises:
            AnswerRestarted: it is not what was sent.
        """
        self.begin_next_attempt()
        rest = self._advance(answer)
        if self._position < self._length:
            raise _restarted()
        return rest

    def _advance(self, body: str) -> str:
        known = body[: self._length - self._position]
        self._sent.seek(self._position)
        if self._sent.read(len(known)) != known:
            raise _restarted()
        rest = body[len(known) :]
        self._position += len(body)
        if rest:
            self._sent.seek(0, io.SEEK_END)
            self._sent.write(rest)
            self._length = self._position
        return rest


def _restarted() -> AnswerRestarted:
    return AnswerRestarted(500, "the answer was written again and differs from what was sent: retrieve it or ask again")


@dataclass(slots=True)
class DeltaSplitter:
    """Cuts an answer into the deltas of a stream. Where it is cut depends on the answer alone, never on when its parts
    arrived, so that every replica sends the same deltas at any time. The first is one character: it waits for nothing.
    """

    _held: str = ""
    _began: bool = False

    def feed(self, text: str) -> list[str]:
        """Return the pieces that are complete."""
        self._held += text
        pieces = []
        at = 0
        while piece := self._next(at):
            pieces.append(piece)
            at += len(piece)
        self._held = self._held[at:]
        return pieces

    def end(self) -> list[str]:
        """Return what was held back."""
        held, self._held = self._held, ""
        return [held] if held else []

    def _next(self, at: int) -> str:
        if not self._began:
            self._began = bool(self._held)
            return self._held[:1]
        match = _PIECE.match(self._held, at)
        piece = match[0] if match else ""
        is_complete = at + len(piece) < len(self._held) or len(piece) == _LONGEST
        return piece if is_complete else ""


def pieces_of(text: str) -> list[str]:
    """Return the pieces of a text that is complete."""
    pieces = DeltaSplitter()
    return [*pieces.feed(text), *pieces.end()]
