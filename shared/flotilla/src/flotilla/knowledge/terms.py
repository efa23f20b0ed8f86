"""Which terms a text is found by, and how much each weighs.

Words are PostgreSQL's lexemes (stemmed, without stop words). Its parser would keep `os.path.join` as one host name
and cut `read_text` in two, so punctuation is taken out first, and each such compound is a term of its own as well.

A term's weight in a passage is the BM25 term weight before idf (Robertson and Zaragoza, "The Probabilistic Relevance
Framework", 2009, eq. 3.15), with a fixed pivot length instead of the running average: passages are cut to one length,
so the average hardly moves, and a weight that never changes lets posting lists stand in order of weight.
"""

import re
from collections import Counter
from collections.abc import Iterable

K1 = 1.2
B = 0.6
PIVOT_TERMS = 70
"""Length, in terms, at which a passage counts as of normal length."""
TITLE_WEIGHT = 2
"""How many times a term of the title path counts (fields as in BM25F)."""
LEAD_WEIGHT = 3
"""How many times more a term counts where the passage defines it (`<dt>`)."""
WEIGHT_UNIT = 1000
"""Weights are stored as whole thousandths."""
MAX_TERM_CHARACTERS = 120

# Takes every character that it looks at, and never goes back: linear in the length of the text.
_NAME = re.compile(r"\w++(?:[.-]\w++)*+")
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def words(text: str) -> str:
    """`text` with blanks for everything but letters, digits and white space: what PostgreSQL makes lexemes of."""
    return _PUNCTUATION.sub(" ", text)


def compounds(text: str) -> list[str]:
    """Names made of several words, in lower case: `os.path.join`, `read_text`, `__init__`, `utf-8`."""
    return [name.lower() for name in _NAME.findall(text) if 1 < len(name) <= MAX_TERM_CHARACTERS and _has_parts(name)]


def _has_parts(name: str) -> bool:
    return "_" in name or "." in name or "-" in name


def weights_of(frequencies: Iterable[tuple[str, int]], compound_terms: Iterable[str]) -> dict[str, int]:
    """The stored weight of each term of one passage, from how often it occurs."""
    counts = Counter(dict(frequencies))
    length = counts.total()
    counts.update(compound_terms)
    normal = K1 * (1 - B + B * length / PIVOT_TERMS)
    return {term: round(WEIGHT_UNIT * count * (K1 + 1) / (count + normal)) for term, count in counts.items()}
