"""A set of questions: one JSON object per line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flotilla_cli.errors import Misuse

FORM = '{"question": "…", "uris": ["…"], "texts": ["…"], "answerable": true, "after": ["…"]}'
_FIELDS = frozenset(("id", "question", "uris", "texts", "answerable", "after"))


@dataclass(frozen=True)
class EvaluationQuestion:
    """What is asked, and what a good passage is."""

    id: str
    question: str
    uris: tuple[str, ...] = ()
    """Documents that answer it: whole URIs, or their last parts (`refunds.md`, `wiki/refunds.md`)."""
    texts: tuple[str, ...] = ()
    """Words that a passage which answers it holds."""
    answerable: bool = True
    after: tuple[str, ...] = ()
    """Questions that are asked before it in its session, where it is a follow-up."""

    @property
    def expected_count(self) -> int:
        """How many things are to be found."""
        return len(self.uris) + len(self.texts)

    def found_in(self, passage: dict[str, Any]) -> frozenset[str]:
        """What of the expected the passage is or holds."""
        uri, text = passage["source"]["uri"], _plain(passage.get("text", ""))
        by_uri = (one for one in self.uris if uri == one or uri.endswith(f"/{one}"))
        return frozenset(by_uri) | frozenset(one for one in self.texts if _plain(one) in text)


def read_question_set(path: Path) -> list[EvaluationQuestion]:
    """Read a set.

    Raises:
        Misuse: it can't be read; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"{path} cannot be read: {error}", f"one JSON object per line: {FORM}") from error
    questions = list(_questions(path, lines))
    if not questions:
        raise Misuse(f"{path} holds no question", f"one JSON object per line: {FORM}")
    return questions


def _questions(path: Path, lines: list[str]) -> Iterator[EvaluationQuestion]:
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        question = _question(f"{path}:{number}", line, str(number))
        if question.id in seen:
            raise Misuse(f"{path}:{number}: the id {question.id} is used twice", "give each question an id of its own")
        seen.add(question.id)
        yield question


def _question(where: str, line: str, number: str) -> EvaluationQuestion:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise Misuse(f"{where}: not JSON: {error}", FORM) from error
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise Misuse(f"{where}: has no question", FORM)
    if unknown := row.keys() - _FIELDS:
        raise Misuse(f"{where}: unknown field {min(unknown)}", FORM)
    answerable = row.get("answerable", True)
    question = EvaluationQuestion(
        str(row.get("id", number)),
        row["question"],
        _texts(where, row, "uris"),
        _texts(where, row, "texts"),
        answerable,
        _texts(where, row, "after"),
    )
    if not isinstance(answerable, bool) or answerable != bool(question.expected_count):
        raise Misuse(f"{where}: an answerable question expects uris or texts, and an unanswerable one nothing", FORM)
    return question


def _texts(where: str, row: dict[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise Misuse(f"{where}: {name} is not a list of texts", FORM)
    return tuple(value)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
