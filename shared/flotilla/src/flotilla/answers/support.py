"""Whether passages say what a sentence says: by its words, its numbers, and its meaning.

Words are compared as the search compares them: stems, without those that carry no meaning. Every number of a sentence
has to be in its passages. With an embedding model, a sentence in other words is compared by meaning as well. Overlap
does not see a denial or two names that are exchanged; a model as judge may.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import structlog

from flotilla.answers.words import content_stems, language_if_shown, passage_stems
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.tasks import Passage
from flotilla.knowledge.embedding import Embedder, scaled_cosine, unrelated_cosine

SUPPORTED = 0.55
"""The least share of a sentence's words that its passages hold."""
MEANT = 0.6
"""The least cosine that lets a sentence count as supported which shares fewer words."""
NOTHING = 0.15
"""A citation whose passage holds less of the words, and means something else, supports nothing."""
NOT_MEANT = 0.4
MIN_WORDS = 3
"""A shorter statement is no reason to drop a citation."""
_NUMBER = re.compile(r"\d+(?:[.,'\u00a0\u202f]\d+)*")
_SEPARATORS = str.maketrans("", "", ".,'\u00a0\u202f")
MAX_PIECES = 40
"""Of a passage that is compared by meaning."""
MAX_KEPT = 500
"""Pieces whose vectors are kept: those of some answers that are written at the same time."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SupportVerdict:
    """How much of a sentence the passages say, from 0 to 1, and whether that is enough; None: it can't be checked."""

    support: float
    supported: bool | None


class OverlapChecker:
    """Checks sentences by words, numbers and, with an `embedder`, by meaning."""

    def __init__(self, embedder: Embedder | None = None, *, language: str = "en") -> None:
        """`language` is that of passages which do not show theirs."""
        self._embedder = embedder
        self._language = language
        self._vectors = _PieceVectors()

    async def check_support(self, sentence: str, passages: Sequence[Passage]) -> SupportVerdict:
        """Return whether `passages` say what `sentence` says."""
        if not passages:
            return SupportVerdict(0.0, supported=False)
        share = max(_share(sentence, passages, language) for language in self._languages(passages))
        if _numbers(sentence) - set(chain.from_iterable(_numbers(_whole(one)) for one in passages)):
            return SupportVerdict(round(min(share, SUPPORTED / 2), 4), supported=False)
        if share >= SUPPORTED:
            return SupportVerdict(round(share, 4), supported=True)
        meant = await self._meant(sentence, passages)
        if meant >= MEANT:
            return SupportVerdict(round(max(share, meant), 4), supported=True)
        return SupportVerdict(round(share, 4), supported=None if self._is_foreign(sentence, passages) else False)

    async def is_unrelated(self, statement: str, passage: Passage) -> bool:
        """Return whether `passage` has nothing to do with `statement`; False where that can't be seen."""
        [language] = self._languages([passage])
        if len(content_stems(language, statement)) < MIN_WORDS or self._is_foreign(statement, [passage]):
            return False
        if _numbers(statement) & _numbers(_whole(passage)):
            return False
        return _share(statement, [passage], language) < NOTHING and await self._meant(statement, [passage]) < NOT_MEANT

    def _languages(self, passages: Sequence[Passage]) -> list[str]:
        return list(dict.fromkeys(language_if_shown(one.text) or self._language for one in passages))

    def _is_foreign(self, sentence: str, passages: Sequence[Passage]) -> bool:
        shown = language_if_shown(sentence)
        return bool(shown) and shown not in self._languages(passages)

    async def _meant(self, sentence: str, passages: Sequence[Passage]) -> float:
        """The cosine of the sentence and what in the passages is nearest to it; 0 without a model that answers."""
        if self._embedder is None:
            return 0.0
        pieces = [piece for one in passages for piece in _pieces(one.text)][:MAX_PIECES]
        try:
            asked, *vectors = await self._vectors.of(sentence, pieces, self._embedder)
        except RetryLater as error:
            log.warning("sentence_not_embedded", error=str(error))
            return 0.0
        unrelated = unrelated_cosine(self._embedder)
        return max((scaled_cosine(_cosine(asked, vector), unrelated) for vector in vectors), default=0.0)


class _PieceVectors:
    """The vectors of the pieces that were compared last: all sentences of an answer are compared with the same."""

    def __init__(self) -> None:
        self._kept: dict[str, Sequence[float]] = {}

    async def of(self, sentence: str, pieces: Sequence[str], embedder: Embedder) -> list[Sequence[float]]:
        """Return the vectors of `sentence` and of each piece; the model sees a piece once."""
        known = {piece: self._kept[piece] for piece in pieces if piece in self._kept}
        unknown = list(dict.fromkeys(piece for piece in pieces if piece not in known))
        asked, *made = await embedder.embed([sentence, *unknown])
        known |= zip(unknown, made, strict=True)
        for piece in known:  # those used last are dropped last
            self._kept.pop(piece, None)
        self._kept |= known
        for piece in list(self._kept)[:-MAX_KEPT]:
            del self._kept[piece]
        return [asked, *(known[piece] for piece in pieces)]


def _share(sentence: str, passages: Sequence[Passage], language: str) -> float:
    """The share of the sentence's words that the passages hold; 1 for a sentence without any."""
    words = content_stems(language, sentence)
    held = frozenset[str]().union(*(passage_stems(_whole(one), language) for one in passages))
    return len(words & held) / len(words) if words else 1.0


def _whole(passage: Passage) -> str:
    return f"{passage.source.title}\n{passage.text}"


def _numbers(text: str) -> set[str]:
    return {found.translate(_SEPARATORS) for found in _NUMBER.findall(text)}


def _pieces(text: str) -> list[str]:
    """The passage and its paragraphs: a sentence is like a part of it rather than the whole."""
    return [text, *(part for part in text.split("\n\n") if part.strip())]


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    norms = (sum(a * a for a in one) * sum(b * b for b in other)) ** 0.5
    return dot / norms if norms else 0.0
