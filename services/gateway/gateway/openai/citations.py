"""Citations of an answer as annotations: `[2]` in the text, and what its second source is."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from flotilla.contracts.session_events import Source

_CITATION = re.compile(r"\[\d{1,3}(?:, \d{1,3}){0,31}\]")
_NUMBER = re.compile(r"\d+")


def citation_annotations(answer: str, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return an annotation per cited source and place: a `url_citation` for web pages, else a `file_citation`."""
    return [_annotation(match, source) for match, source in _citations(answer, sources)]


def _citations(answer: str, sources: Sequence[Source]) -> Iterator[tuple[re.Match[str], Source]]:
    for match in _CITATION.finditer(answer):
        for number in map(int, _NUMBER.findall(match[0])):
            if 1 <= number <= len(sources):
                yield match, sources[number - 1]


def _annotation(match: re.Match[str], source: Source) -> dict[str, Any]:
    if source.uri.startswith(("https://", "http://")):
        place = {"start_index": match.start(), "end_index": match.end()}
        return {"type": "url_citation", **place, "url": source.uri, "title": source.title}
    return {
        "type": "file_citation",
        "file_id": source.document_id,
        "filename": source.title or source.uri,
        "index": match.start(),
    }
