"""Cuts a document into passages: whole blocks of one section, about as long as one answer needs."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from flotilla.knowledge.documents import TextBlock, UnstoredPassage

TARGET_CHARACTERS = 900
"""A passage is closed when the next block would make it longer than this."""
MAX_CHARACTERS = 1600
"""A single block that is longer is cut, at a sentence's or line's end where there is one."""
MAX_LEAD_CHARACTERS = TARGET_CHARACTERS // 2
"""Headings and defined terms that go with what follows them; longer ones are text of their own."""
MAX_HEADING_CHARACTERS = 300
"""Of the headings above a passage: each passage carries them, so a document of headings would grow many times over."""
HEADING_SEPARATOR = " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} "

_BETWEEN_BLOCKS = "\n\n"
_CUT_AFTER = re.compile(r"(?<=[.!?;])\s+|\n+")


@dataclass(frozen=True, slots=True)
class SplitDocument:
    """The document's text and its passages, in order."""

    text: str
    pieces: list[UnstoredPassage]


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    block: TextBlock
    path: tuple[str, ...]


@dataclass(slots=True)
class _Open:
    """The passage in the making."""

    spans: list[_Span] = field(default_factory=list)
    has_text: bool = False
    """Whether it holds more than headings."""

    def add(self, span: _Span) -> None:
        self.spans.append(span)
        self.has_text |= span.block.level == 0

    def length_with(self, span: _Span) -> int:
        return span.end - self.spans[0].start if self.spans else 0

    def is_apart(self, span: _Span) -> bool:
        """Whether `span` is on another slide or sheet, or in another attachment."""
        return bool(self.spans) and _kind(self.spans[-1]) != _kind(span)

    def drop_leads(self) -> list[_Span]:
        """Take off the headings and terms at its end, which belong to what follows, if they are short."""
        kept = len(self.spans)
        while kept and self._is_lead(self.spans[kept - 1]):
            kept -= 1
        leads = self.spans[kept:]
        del self.spans[kept:]
        return leads

    def _is_lead(self, span: _Span) -> bool:
        return bool(span.block.leads or span.block.level) and self.spans[-1].end - span.start <= MAX_LEAD_CHARACTERS


def split_into_passages(blocks: list[TextBlock], target: int = TARGET_CHARACTERS) -> SplitDocument:
    """Passages never overlap, never cross a section's heading, and keep a term with its definition."""
    text = _BETWEEN_BLOCKS.join(block.text for block in blocks)
    pieces: list[UnstoredPassage] = []
    opened = _Open()
    for span in _spans(blocks):
        begins_section = (span.block.level > 0 and opened.has_text) or opened.is_apart(span)
        if begins_section or opened.length_with(span) > target:
            leads = [] if begins_section else opened.drop_leads()
            _close(opened, text, pieces)
            opened = _Open(leads, any(lead.block.level == 0 for lead in leads))
        opened.add(span)
    _close(opened, text, pieces)
    return SplitDocument(text, pieces)


def _close(opened: _Open, text: str, pieces: list[UnstoredPassage]) -> None:
    if not opened.spans:
        return
    anchors = tuple(anchor for span in opened.spans for anchor in span.block.anchors)
    heading = HEADING_SEPARATOR.join(opened.spans[-1].path)[:MAX_HEADING_CHARACTERS]
    last_end = opened.spans[-1].end
    leads = tuple(span.block.text for span in opened.spans if span.block.leads)
    for number, (start, end) in enumerate(_cut(text, opened.spans[0].start, last_end)):
        first = number == 0
        place = _place(span for span in opened.spans if span.start < end and start < span.end)
        pieces.append(
            UnstoredPassage(
                heading, start, end, text[start:end], leads if first else (), anchors if first else (), place
            )
        )


def _place(spans: Iterable[_Span]) -> str:
    places = [
        span.block.place for span in spans if span.block.place and (span.block.place.number or not span.block.level)
    ]
    return places[0].to(places[-1]) if places else ""


def _kind(span: _Span) -> str:
    return span.block.place.kind if span.block.place else ""


def _spans(blocks: list[TextBlock]) -> Iterator[_Span]:
    path: list[tuple[int, str]] = []
    at = 0
    for block in blocks:
        if block.level:
            path = [(level, title) for level, title in path if level < block.level] + [
                (block.level, block.text[:MAX_HEADING_CHARACTERS])
            ]
        yield _Span(at, at + len(block.text), block, tuple(title for _, title in path))
        at += len(block.text) + len(_BETWEEN_BLOCKS)


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most MAX_CHARACTERS that together are `start` to `end`, less the white space between them."""
    while end - start > MAX_CHARACTERS:
        limit = start + MAX_CHARACTERS
        ends = list(_CUT_AFTER.finditer(text, start + MAX_CHARACTERS // 2, limit))
        space = text.rfind(" ", start + 1, limit)
        cut, following = (
            (ends[-1].start(), ends[-1].end()) if ends else (space, space + 1) if space > 0 else (limit, limit)
        )
        yield start, cut
        start = following
    if start < end:
        yield start, end
