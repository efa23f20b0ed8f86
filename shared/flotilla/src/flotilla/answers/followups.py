"""Follow-up questions: "And in version 14?" searches for nothing by itself.

A question is one when it begins like a continuation, points at something that it has not named ("it", "dafür", "cela"),
or has hardly a word of its own. It is then asked together with the last question that was complete in itself.
"""

from collections.abc import Sequence

from flotilla.answers.words import content_stems, language_if_shown
from flotilla.contracts.tasks import Turn
from flotilla.knowledge.terms import split_into_words

MAX_LOOKED_BACK = 5
MAX_CARRIED_CHARACTERS = 1000
MIN_OWN_WORDS = 2
"""A question with fewer words that carry meaning asks about something that was said before."""
MIN_NAMED = 3
"""After so many words that carry meaning, a pronoun points at one of them."""

# Compared in the form that words are indexed in: lower case, with accents.
_BEGINNING_TEXT = """
and or but then so also what_about how_about which_of why_not
und oder aber dann auch sondern warum_nicht wie_sieht was_ist_mit
et ou mais alors puis aussi pourquoi_pas
y e o pero entonces también ed allora anche maar ook dan och eller
"""
_POINTER_TEXT = """
it its they them their theirs this these those that he she him her there
es ihn ihm ihnen sie diese dieser dieses diesen diesem jene jener jenes dafür davon damit dabei darin daran darauf dazu
dort stattdessen
il elle ils elles ça cela ceci celui celle ceux celles leur lui y
eso esto ello ellos ellas ese esa esos esas ahí
esso essa essi questo questa quello quella ciò
"""
_BEGINNINGS = frozenset(_BEGINNING_TEXT.split())
_POINTERS = frozenset(_POINTER_TEXT.split())
_EMPTY_POINTERS = frozenset(("there", "that", "il", "es", "y"))
"""Words that mostly point at nothing, as in "is there" and "il faut", unless they end the question."""
_POLITE = "Sie"
_IS_THERE = ["y", "a"]


def is_follow_up(question: str, language: str = "en") -> bool:
    """Return whether `question` can't be understood without what was said before it."""
    asked = " ".join(word for word in question.split() if word.strip("?,.;:!") != _POLITE)
    words = split_into_words(asked).words
    if not words:
        return False
    starts = (words[0], "_".join(words[:2]), "_".join(words[:3]))
    begins = words[:2] != _IS_THERE and any(start in _BEGINNINGS for start in starts)
    return begins or _points_back(words, language) or len(content_stems(language, asked)) < MIN_OWN_WORDS


def _points_back(words: Sequence[str], language: str) -> bool:
    """Whether a word stands for something that the question has not named."""
    pointing = (at for at, word in enumerate(words) if word in _POINTERS and not _is_empty(words, at))
    first = next(pointing, None)
    return first is not None and len(content_stems(language, " ".join(words[:first]))) < MIN_NAMED


def _is_empty(words: Sequence[str], at: int) -> bool:
    return words[at] in _EMPTY_POINTERS and at < len(words) - 1


def searchable_question(question: str, history: Sequence[Turn], default_language: str = "en") -> str:
    """Return what to search for: `question`, after the last complete question where it is a follow-up."""
    if not history:
        return question
    looked_at = [turn.query for turn in reversed(history)][:MAX_LOOKED_BACK]
    language = language_if_shown(" ".join((*looked_at[:2], question))) or default_language
    if not is_follow_up(question, language):
        return question
    complete = next((asked for asked in looked_at if not is_follow_up(asked, language)), looked_at[-1])
    return f"{complete[:MAX_CARRIED_CHARACTERS]} {question}"
