"""What a passage is found by, and what a question looks for: one analysis for both.

A document is analysed in its own language, which is stored with it. A question is analysed in each language that the
tenant's documents are in: each of its words looks for its stem in any of them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from flotilla.knowledge.languages import guess_query_languages, stem, stop_words
from flotilla.knowledge.terms import WordsAndNames, split_into_words, without_accents

VERSION = "2"
"""Raise it when the terms of a text change: documents are indexed again in the background."""
MAX_QUERY_WORDS = 2000
"""Of a longer question, its first ones."""


@dataclass(frozen=True, slots=True)
class AnalysedPassage:
    """A passage as the index keeps it."""

    counts: dict[str, int]
    """How often each term occurs."""

    @property
    def term_count(self) -> int:
        """How many terms it has."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class QueryTerm:
    """A word or name of a question, and the terms that stand for it in one language or another."""

    forms: tuple[str, ...]
    is_name: bool


def analysis_version(language: str) -> str:
    """Return the name of the analysis in `language`; it is stored with each document."""
    return f"{VERSION}/{language}"


def analyse_passage(text: str, language: str) -> AnalysedPassage:
    """Return the terms of a passage."""
    found = split_into_words(text)
    terms = _stems(found.words, language)
    return AnalysedPassage(dict(Counter(terms + without_accents(found.names))))


def query_terms(query: str, languages: Sequence[str]) -> list[QueryTerm]:
    """Return what `query` looks for, each word once."""
    found = split_into_words(query, asked=True)
    words = _meaningful(found, languages)
    stems = [stem(words, language) for language in languages]
    forms = [tuple(dict.fromkeys(same)) for same in zip(*stems, strict=True)]
    names = [(name,) for name in without_accents(found.names)[:MAX_QUERY_WORDS]]
    asked = dict.fromkeys([QueryTerm(one, is_name=False) for one in forms])
    return list(asked | dict.fromkeys(QueryTerm(one, is_name=True) for one in names))


def _meaningful(found: WordsAndNames, languages: Sequence[str]) -> list[str]:
    unique = list(dict.fromkeys(found.words))[:MAX_QUERY_WORDS]
    stopped = frozenset[str]().union(*(stop_words(one) for one in guess_query_languages(unique, languages)))
    return [word for word in unique if word not in stopped]


def _stems(words: list[str], language: str) -> list[str]:
    stopped = stop_words(language)
    return stem([word for word in words if word not in stopped], language)
