"""Which words a text is made of: the same for a document and for the question that looks for it.

Text is put into one form first: compatible forms are one (NFKC: full-width letters, ligatures, composed accents), case
is folded, characters that nobody sees are dropped. Scripts that put no spaces between words become pairs of
characters; a Han character is a word of its own as well. A name made of several words (`os.path.join`, `read_text`,
`utf-8`) is each of its words and the whole. Every pattern is one character class, so the time is linear in the text.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby

from flotilla.knowledge.unicode_form import limit_combining_marks

MAX_TERM_CHARACTERS = 64
"""A longer word counts by its beginning; a longer name only by its words."""


def _of_category(categories: tuple[str, ...], codes: Iterable[int]) -> str:
    """The characters of `categories` among `codes`, as the ranges of a character class."""
    found = [code for code in codes if unicodedata.category(chr(code)) in categories]
    rows = groupby(enumerate(found), lambda numbered: numbered[1] - numbered[0])
    runs = ([code for _, code in row] for _, row in rows)
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)


# Unicode's format characters and variation selectors, and the vowel signs that Arabic and Hebrew may leave out.
_UNSEEN = re.compile(
    f"[{_of_category(('Cf',), chain(range(0x20000), range(0xE0000, 0xE0200)))}"
    "\u0640\u064b-\u0655\u0591-\u05bd\ufe00-\ufe0f\U000e0100-\U000e01ef]+"
)
# Python's \w lacks the marks that words of many scripts contain.
_MARKS = _of_category(("Mn", "Mc"), range(0x300, 0x20000))
_RUN = re.compile(rf"[\w.\-{_MARKS}]+")
_ASCII_RUN = re.compile(r"[\w.\-]+", re.ASCII)
_JOINT = re.compile(r"[._-]+")
_GAP = re.compile(r"[.-]{2,}")
_UNSPACED = re.compile(
    "([\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"  # Han
    "|[\u3041-\u309f]+|[\u30a0-\u30ff\u31f0-\u31ff]+|[\uac00-\ud7af]+"  # Hiragana, Katakana, Hangul
    "|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+"  # Thai, Lao, Burmese, Khmer
)


@dataclass(frozen=True, slots=True)
class WordsAndNames:
    """The words of a text in order, and the names that several of them make."""

    words: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def split_into_words(text: str, *, asked: bool = False) -> WordsAndNames:
    """Return the words of `text`. What is `asked` needs no single Han characters where there are pairs."""
    found, form = WordsAndNames(), normalize_term(text)
    for run in (_ASCII_RUN if form.isascii() else _RUN).findall(form):
        if run.isascii() and run.isalnum():
            found.words.append(run[:MAX_TERM_CHARACTERS])
            continue
        parts = [part for part in _JOINT.split(run) if part]
        for part in parts:
            found.words.extend([part[:MAX_TERM_CHARACTERS]] if part.isascii() else _words_of(part, asked))
        if len(parts) > 1 or "_" in run:
            found.names.extend(_names_of(run))
    return found


def normalize_term(text: str) -> str:
    """Return the one form of `text` that is indexed and asked for."""
    if text.isascii():
        return text.lower()
    composed = unicodedata.normalize("NFKC", limit_combining_marks(_UNSEEN.sub("", text))).casefold()
    return unicodedata.normalize("NFKC", composed)


def without_accents(words: Iterable[str]) -> list[str]:
    """Return `words` with the base letters of accented ones."""
    return [word if word.isascii() else _without_accents(word) for word in words]


def _words_of(part: str, asked: bool) -> Iterator[str]:
    at = 0
    for run in _UNSPACED.finditer(part):
        yield from _word(part[at : run.start()])
        yield from _pairs(run[0], singles=run[1] is not None and not asked)
        at = run.end()
    yield from _word(part[at:])


def _word(part: str) -> tuple[str, ...]:
    return (part[:MAX_TERM_CHARACTERS],) if part else ()


def _pairs(run: str, *, singles: bool) -> Iterator[str]:
    if singles or len(run) == 1:
        yield from run
    yield from (run[at : at + 2] for at in range(len(run) - 1))


def _names_of(run: str) -> Iterator[str]:
    for name in _GAP.split(run):
        whole = name.strip(".-")
        if len(whole) <= MAX_TERM_CHARACTERS and _JOINT.search(whole) and whole.strip("_"):
            yield whole


_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "\N{LATIN SMALL LETTER DOTLESS I}": "i", "æ": "ae", "œ": "oe"})
_ACCENTS = re.compile("[\u0300-\u036f]+")


def _without_accents(word: str) -> str:
    bare = _ACCENTS.sub("", unicodedata.normalize("NFD", word.translate(_LETTERS)))
    return unicodedata.normalize("NFC", bare)
