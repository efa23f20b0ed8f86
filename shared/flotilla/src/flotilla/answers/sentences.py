"""An answer's sentences, and which sources each of them rests on.

A citation is part of the sentence that it follows. A sentence without one rests on the next citation of its paragraph,
else on the last: people and models put one after several sentences. Headings, introductions that end with a colon,
questions and code state nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

_ENDS = frozenset(".!?\u3002\uff01\uff1f\u2026")
_UNSPACED_ENDS = frozenset("\u3002\uff01\uff1f")
_CLOSING = frozenset("\"'\u201d\u2019\u00bb)]*_")
# With the blanks before it: all of them, so that a run of blanks is tried once and not from each of its blanks.
_CITATIONS = re.compile(r"(?<![ \t])[ \t]*\[\d{1,3}(?:, \d{1,3})*\]")
_CODE = re.compile(r"`[^`\n]*`")
_NUMBER = re.compile(r"\d{1,3}")
_NEXT = re.compile(r"\s*(\S)")
_FENCE = "```"
_NOT_STATED = ("#", _FENCE)


@dataclass(frozen=True, slots=True)
class AnswerSentence:
    """A sentence by its place in the answer, its citations included, and its text without them."""

    start: int
    end: int
    text: str
    cited: tuple[int, ...]

    @property
    def is_statement(self) -> bool:
        """Whether it states something that sources can say, too."""
        words = self.text.strip(" \t*_-+>|.\u2026")
        return any(char.isalnum() for char in words) and not words.endswith((":", "?", "\uff1f"))


def split_into_statements(answer: str) -> list[AnswerSentence]:
    """Return the sentences of `answer` that state something, in order, each with what it rests on."""
    return [one for paragraph in _paragraphs(answer) for one in _resting(paragraph) if one.is_statement]


def statement_before_citation(text: str) -> str:
    """Return the statement at the end of `text`: from the sentence's beginning, or from the citation before. Citations
    right at the end are put to it, too."""
    end = len(text.rstrip(" \t*_[]0123456789,"))
    at = end - 1
    while at > 0 and not _begins_after(text, at - 1, end):
        at -= 1
    return _CITATIONS.sub("", text[max(at, 0) : end]).strip()


def _begins_after(text: str, at: int, end: int) -> bool:
    char = text[at]
    if char in "\n]":
        return True
    is_end = char in _UNSPACED_ENDS or (char in _ENDS and text[at + 1].isspace())
    return is_end and at < end - 1 and not _goes_on(text, at + 1, end)


def _paragraphs(answer: str) -> Iterator[list[AnswerSentence]]:
    """The sentences of lines that no blank line parts."""
    paragraph: list[AnswerSentence] = []
    at, is_code = 0, False
    for line in answer.splitlines(keepends=True):
        stripped = line.strip()
        if stripped.startswith(_FENCE):
            is_code = not is_code
        elif not stripped:
            yield paragraph
            paragraph = []
        elif not is_code and not stripped.startswith(_NOT_STATED):
            paragraph += _sentences(answer, at, at + len(line.rstrip()))
        at += len(line)
    yield paragraph


def _sentences(answer: str, start: int, end: int) -> Iterator[AnswerSentence]:
    while start < end:
        stop = _end_of_sentence(answer, start, end)
        text = answer[start:stop]
        lead = len(text) - len(text.lstrip())
        marks = _CITATIONS.findall(_CODE.sub("", text))
        cited = tuple(dict.fromkeys(int(n) for mark in marks for n in _NUMBER.findall(mark)))
        if text.strip():
            yield AnswerSentence(start + lead, stop, _CITATIONS.sub("", text).strip(), cited)
        start = stop


def _end_of_sentence(answer: str, start: int, end: int) -> int:
    at = start
    while at < end:
        char = answer[at]
        at += 1
        if char not in _ENDS:
            continue
        while at < end and (answer[at] in _ENDS or answer[at] in _CLOSING):
            at += 1
        if at < end and not answer[at].isspace() and char not in _UNSPACED_ENDS and not _CITATIONS.match(answer, at):
            continue
        stop = _after_citations(answer, at, end)
        if stop > at or not _goes_on(answer, stop, end):
            return stop
    return end


def _after_citations(answer: str, at: int, end: int) -> int:
    while (found := _CITATIONS.match(answer, at, end)) is not None:
        at = found.end()
    if at < end and answer[at] in _ENDS:  # "[1]." after an abbreviation's dot
        at += 1
    return at


def _goes_on(answer: str, at: int, end: int) -> bool:
    """Whether what follows is of the same sentence, as after an abbreviation."""
    found = _NEXT.match(answer, at, end)
    return found is not None and found[1].islower()


def _resting(paragraph: list[AnswerSentence]) -> list[AnswerSentence]:
    following: list[tuple[int, ...]] = []
    cited: tuple[int, ...] = ()
    for sentence in reversed(paragraph):
        cited = sentence.cited or cited
        following.append(cited)
    resting: list[AnswerSentence] = []
    last: tuple[int, ...] = ()
    for sentence, next_cited in zip(paragraph, reversed(following), strict=True):
        last = sentence.cited or last
        resting.append(replace(sentence, cited=sentence.cited or next_cited or last))
    return resting
