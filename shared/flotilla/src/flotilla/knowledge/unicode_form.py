"""One form for text that people see: composed, without characters that nobody sees.

`unicodedata.normalize` sorts each run of combining marks by exchanges, in time that grows with the square of the run's
length. So a run is cut first, to what Unicode's Stream-Safe Text Format allows (UAX 15, section 13).
"""

import re
import unicodedata
from functools import cache

MAX_MARKS = 30
"""Combining marks in a row; no language needs as many."""

# Control characters that are not spaces; soft hyphens, zero-width spaces, language tags. Joiners (U+200C, U+200D) and
# marks of direction stay: words, emoji and lines that run both ways are written with them.
_UNSEEN = re.compile(
    "\xad[ \t]*\n[ \t]*|"  # a word that was cut at the end of a line
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u180e\u200b\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001-\U000e007f]+"
)
_WITH_MARKS = range(0x300, 0x1F000)


def seen(text: str) -> str:
    """Return `text` composed (NFC), without the characters that nobody sees."""
    visible = _UNSEEN.sub("", text)
    return visible if visible.isascii() else unicodedata.normalize("NFC", limit_combining_marks(visible))


def limit_combining_marks(text: str) -> str:
    """Return `text` with at most MAX_MARKS combining marks in a row, so that it can be normalised in linear time."""
    return text if text.isascii() else _too_many_marks().sub(r"\1", text)


@cache
def _too_many_marks() -> re.Pattern[str]:
    """A run that is too short is looked at once for each of its marks, MAX_MARKS times at most: linear."""
    mark = "[" + "".join(chr(code) for code in _WITH_MARKS if unicodedata.combining(chr(code))) + "]"
    return re.compile(f"({mark}{{{MAX_MARKS}}}){mark}+")
