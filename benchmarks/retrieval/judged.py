"""The questions, what answers them, and figures with bootstrap intervals."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from flotilla.answers.followups import searchable_question
from flotilla.contracts.tasks import Turn

QUESTIONS = Path(__file__).parent / "questions"
RESAMPLES = 2000
Half: TypeAlias = Literal["tune", "report"]


@dataclass(frozen=True)
class Question:
    """A question in ordinary words. `pages` that answer it are judged by people, like the `word` of a passage that
    does; without pages nothing in the manual answers it."""

    text: str
    pages: frozenset[str]
    word: str
    before: str
    """The question that it is a follow-up of; empty for one that stands alone."""

    @property
    def answerable(self) -> bool:
        """Whether anything in the manual answers it."""
        return bool(self.pages)

    def searched(self, language: str) -> str:
        """What the fleet searches for."""
        history = [Turn(query=self.before, answer="")] if self.before else []
        return searchable_question(self.text, history, language)

    def is_right(self, page: str, text: str) -> bool:
        """Whether a passage answers it."""
        return page in self.pages and self.word.lower() in text.lower()


def read_questions(name: str, half: Half) -> list[Question]:
    """One half of a set: odd lines are to tune on, even ones only for the figures that are reported."""
    lines = (QUESTIONS / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    return [_question(line) for line in lines[half == "report" :: 2]]


def _question(line: str) -> Question:
    text, pages, word, before = [*line.split("\t"), "", "", ""][:4]
    return Question(text, frozenset(filter(None, pages.split(","))), word, before)


def with_interval(values: Sequence[float]) -> str:
    """The mean, and 95% of what it is when as many questions are drawn from these."""
    if not values:
        return "none"
    draw = random.Random(11)  # noqa: S311 - drawn alike in every run
    means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return f"{statistics.fmean(values):.2f} [{means[RESAMPLES // 40]:.2f}, {means[-RESAMPLES // 40]:.2f}]"
