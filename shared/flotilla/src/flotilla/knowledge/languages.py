"""Languages: their stop words and stemmers."""

from collections.abc import Collection, Sequence
from functools import cache
from importlib.resources import files

from Stemmer import Stemmer

from flotilla.contracts.errors import ConfigurationError
from flotilla.knowledge.terms import without_accents

STEMMERS = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi",
    "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali",
    "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian",
    "sr": "serbian", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip
"""Snowball's stemmers by ISO 639-1 code."""
UNSTEMMED = ("bg", "he", "ja", "km", "ko", "lo", "th", "uk", "vi", "zh")
"""Languages that are recognized but have no stemmer."""
UNACCENTED = ("en", "id")
"""Languages whose stemmers take an accented letter for none of theirs."""
LANGUAGES = frozenset((*STEMMERS, *UNSTEMMED))


@cache
def stop_words(language: str) -> frozenset[str]:
    """Return the words of `language` that carry no meaning of their own: Snowball's list, none where it has none."""
    listed = files("flotilla.knowledge") / "stop_words" / f"{language}.txt"
    return frozenset(listed.read_text(encoding="utf-8").split()) if listed.is_file() else frozenset()


def stem(words: list[str], language: str) -> list[str]:
    """Return the stem of each of `words`, without accents: stemmers of most languages want to see them."""
    name = STEMMERS.get(language)
    plain = without_accents(words) if language in UNACCENTED else words
    # One for each call: a stemmer must not be used by two threads.
    return without_accents(Stemmer(name).stemWords(plain)) if name else without_accents(plain)


def check_language(language: str) -> None:
    """Raises:
    ConfigurationError: there is no analysis for `language`.
    """
    if language not in LANGUAGES:
        raise ConfigurationError(
            f"FLOTILLA_KNOWLEDGE_LANGUAGE is {language!r}: use one of {', '.join(sorted(LANGUAGES))}"
        )


def guess_query_languages(words: Collection[str], languages: Sequence[str]) -> list[str]:
    """Return those of `languages` whose stop words are the most among `words`: too few to classify."""
    hits = {language: len(stop_words(language).intersection(words)) for language in languages}
    most = max(hits.values(), default=0)
    return [language for language in languages if hits[language] == most]
