"""The words of questions, sentences and passages that carry their meaning, by the knowledge base's own analysis."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeAlias

from flotilla.contracts.tasks import Passage
from flotilla.knowledge.languages import stem, stop_words
from flotilla.knowledge.recognition import detect_language
from flotilla.knowledge.terms import split_into_words

Terms: TypeAlias = Callable[[str], frozenset[str]]
MIN_SHOWN_CHARACTERS = 40
"""A shorter text does not show its language."""


@lru_cache(maxsize=256)
def language_if_shown(text: str) -> str:
    """Return the language of `text`, empty where the text does not show it: each sentence asks for its passages'."""
    return detect_language(text, "") if len(text) >= MIN_SHOWN_CHARACTERS else ""


def content_stems(language: str, text: str) -> frozenset[str]:
    """Return the stems of `text` without the words that carry no meaning of their own."""
    words = split_into_words(text).words
    stopped = stop_words(language)
    return frozenset(stem([word for word in words if word not in stopped], language))


@lru_cache(maxsize=256)
def passage_stems(text: str, language: str) -> frozenset[str]:
    """Return the stems of a passage: one answer asks for them once for each of its sentences."""
    return content_stems(language, text)


def analysis_for_passages(passages: Iterable[Passage], default_language: str = "en") -> Terms:
    """Return the analysis of the language that most of `passages` are in."""
    text = "\n".join(passage.text[:400] for passage in passages)
    language = language_if_shown(text) or default_language
    return lambda one: content_stems(language, one)
