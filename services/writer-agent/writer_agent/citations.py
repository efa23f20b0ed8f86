"""Citations in a streamed answer: `[3]` becomes the number of its source, and numbers without a passage go.

Sources are numbered in the order in which the answer cites them, so `[n]` is always the n-th source. Where citations
are checked, the stream stops at each until `continue_after` says which of its numbers support what they were put to.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from flotilla.answers.sentences import statement_before_citation

# With the blank before it, which goes with a citation that is dropped.
_WHOLE = re.compile(r"( ?)\[\s*\d+(?:\s*[,;]\s*\d+)*\s*\]")
_BEGUN = re.compile(r" ?(?:\[[\d\s,;]*)?")
_NUMBER = re.compile(r"\d+")
_NO_PASSAGE = re.compile(r" ?\[\s*0\s*\]")
"""What stands for a source where there is none."""
_INDEXED = re.compile(r"[A-Za-z0-9_)\]]")
"""The end of what a number in brackets is an index of, and not a citation."""
_LONGEST = 40
_MAX_DIGITS = 6
"""A longer number is that of no passage."""
_REMEMBERED = 600
"""Characters before a citation in which the statement is looked for that it was put to."""
_MAX_CHECKED = 200
"""Citations of an answer that are checked: more of them are an answer gone wrong."""


@dataclass(frozen=True, slots=True)
class UndecidedCitation:
    """A citation that the stream has stopped at: the statement before it, and the passages' numbers."""

    statement: str
    numbers: tuple[int, ...]


class CitationRenumberer:
    """Takes an answer piece by piece and gives it back with its citations renumbered. Code stays as it is."""

    def __init__(self, passages: int, *, is_checked: bool = False) -> None:
        self._passages = passages
        self._checks_left = _MAX_CHECKED if is_checked else 0
        self._refused: Collection[int] | None = None
        self._recent = ""
        self._held = ""
        self._in_code = False
        self._is_open = False
        """Whether what was given back ends like the beginning of a citation."""
        self._last = ""
        """The last character that was given back."""
        self._text: list[str] = []
        self.cited: list[int] = []
        """Numbers of the passages cited so far, from 1, in the order of their first citation."""
        self.says_unanswered = False
        """Whether it says by `[0]` that no passage answers."""
        self.undecided: UndecidedCitation | None = None
        """The citation to decide on before anything more is given back."""

    @property
    def text(self) -> str:
        """All that was given back."""
        return "".join(self._text)

    def feed(self, piece: str) -> str:
        """The text that is certain by now; the beginning of a possible citation is held back."""
        whole = self._held + piece
        if self.undecided:
            self._held = whole
            return ""
        given: list[str] = []
        at = 0
        while at < len(whole):
            if whole[at] not in " [" or self._in_code:
                self._in_code ^= whole[at] == "`"
                at += self._take(given, whole[at])
            elif found := _WHOLE.match(whole, at, at + _LONGEST):
                if self._must_wait(found, given):
                    break
                self.says_unanswered |= self._names_no_passage(found)
                self._take(given, self._renumbered(found) or self._gap())
                at = found.end()
            elif self._may_go_on(whole, at):
                break
            else:
                at += self._take(given, whole[at])
        self._held = whole[at:]
        return self._give("".join(given))

    def continue_after(self, refused: Collection[int]) -> str:
        """Go on after `undecided`; its numbers that are `refused` are dropped from the answer."""
        self.undecided, self._refused = None, refused
        return self.feed("")

    def end(self) -> str:
        """What was still held back."""
        held, self._held = self._held, ""
        return self._give(held)

    def _must_wait(self, citation: re.Match[str], given: list[str]) -> bool:
        if not self._checks_left or self._refused is not None:
            return False
        self._checks_left -= 1
        before = f"{self._recent}{''.join(given)}"[-_REMEMBERED:]
        numbers = self._known(citation)
        self.undecided = UndecidedCitation(statement_before_citation(before), tuple(numbers)) if numbers else None
        return self.undecided is not None

    def _known(self, citation: re.Match[str]) -> list[int]:
        """The numbers of passages, each once."""
        numbers = [int(number) for number in _NUMBER.findall(citation.group()) if len(number) <= _MAX_DIGITS]
        return [number for number in dict.fromkeys(numbers) if 1 <= number <= self._passages]

    def _may_go_on(self, whole: str, at: int) -> bool:
        return len(whole) - at < _LONGEST and _BEGUN.fullmatch(whole, at) is not None

    def _take(self, given: list[str], text: str) -> int:
        """Add `text` to what is given back; give its length."""
        given.append(text)
        self._last = text[-1:] or self._last
        for character in text:
            self._is_open = character == "[" or (self._is_open and (character in ",;" or _fills(character)))
        return len(text)

    def _renumbered(self, citation: re.Match[str]) -> str:
        known = [number for number in self._known(citation) if number not in (self._refused or ())]
        self._refused = None
        self.cited.extend(number for number in known if number not in self.cited)
        return f"{citation.group(1)}[{', '.join(str(self.cited.index(n) + 1) for n in known)}]" if known else ""

    def _names_no_passage(self, citation: re.Match[str]) -> bool:
        before = citation.group(1) or self._last
        return _NO_PASSAGE.fullmatch(citation.group()) is not None and not _INDEXED.match(before)

    def _gap(self) -> str:
        """Stand where a citation was dropped: in `[[9]1]`, what is left around it must not become a citation."""
        return "[]" if self._is_open else ""

    def _give(self, text: str) -> str:
        self._text.append(text)
        if self._checks_left:
            self._recent = (self._recent + text)[-_REMEMBERED:]
        return text


def _fills(character: str) -> bool:
    return character.isdecimal() or character.isspace()
