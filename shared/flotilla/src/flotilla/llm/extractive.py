"""The built-in model: quotes the sentences that answer best. No key, no network, the same answer every time.

It ranks sentences by the question's terms they hold, rare terms counting more (idf over the given sentences), and
passes over those that repeat what is chosen already (maximal marginal relevance: Carbonell and Goldstein, 1998). A
heading is never quoted; its terms count for the sentences below it.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from flotilla.contracts.tasks import Passage, TokenUsage
from flotilla.llm.model import Completion, CompletionRequest, ModelRefused, OnToken

EXTRACTIVE_MODEL = "flotilla-extractive-1"
NOTHING_FOUND = "The documents do not answer this question."
MAX_SENTENCES = 3
MIN_SENTENCE_CHARACTERS = 20
MAX_SENTENCE_CHARACTERS = 400

# Of the question's weight, the least that a sentence must hold to be quoted. Low: whether there is an answer at all is
# decided from the whole search, with a stated error rate.
_MIN_COVERAGE = 0.15
_REDUNDANCY = 0.6
# How much the order of the passages counts beside the sentence's own terms.
_RANK_SHARE = 0.15
# What a term in the heading counts beside one in the sentence itself.
_HEADING_SHARE = 0.5
_HEADING = re.compile(r"(?![-*+|>])[^\n]{1,120}[^\n.!?;:|]")
_SENTENCE = re.compile(r"[^\n]+?(?:[.!?](?=\s|$)|\n|$)", re.MULTILINE)
# Inside a paragraph of prose: the line is a long one, and the next begins neither a list item nor a table's row.
_SOFT_BREAK = re.compile(r"(?<=[^\n|]{50})\n(?![\s\-*+>]|\d+[.)] )(?=[^\n|]*(?:\n|\Z))")
_LIKE_A_CITATION = re.compile(r"\[[\d\s,;]+\]")
_WORD = re.compile(r"\w+")
_ENDINGS = ("ings", "ing", "edly", "ed", "ies", "es", "s", "ly")
_MIN_STEM = 3
_STOP_TEXT = """
a about all an and any are as at be but by can do does for from had has have how i if in into is it its may me my no not
of on or our should so than that the their them then there these they this to was we were what when where which who
whom why will with would you your
"""
_STOP_WORDS = frozenset(_STOP_TEXT.split())


Terms: TypeAlias = Callable[[str], frozenset[str]]
"""What of a text is compared."""


def english_stems(text: str) -> frozenset[str]:
    """Return the words of an English text, without endings and those that carry no meaning."""
    words = (word.lower() for word in _WORD.findall(text))
    return frozenset(_stem(word) for word in words if word not in _STOP_WORDS)


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _MIN_STEM:
            return word[: -len(ending)].removesuffix("e")
    return word.removesuffix("e") if len(word) > _MIN_STEM else word


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    passage: int
    """Its passage's number, from 1."""
    terms: frozenset[str]
    heading: frozenset[str]
    """Terms of the heading above it that are not its own."""


class ExtractiveModel:
    """Answers from `CompletionRequest.grounding` alone; the messages are not read."""

    name = EXTRACTIVE_MODEL
    provider = "flotilla"

    def __init__(self, terms_for: Callable[[Sequence[Passage]], Terms] | None = None) -> None:
        """`terms_for` gives the analysis of the passages' language; without it they are taken for English."""
        self._terms_for = terms_for or (lambda _: english_stems)

    async def complete(self, request: CompletionRequest, on_token: OnToken | None = None) -> Completion:
        """Quote and cite; answer that nothing fits where nothing does. Tokens are words here.

        Raises:
            ModelRefused: the request is a conversation in OpenAI's form.
        """
        if request.body is not None:
            raise ModelRefused(
                f"{self.name} quotes passages and holds no conversation: set OPENAI_BASE_URL and FLOTILLA_LLM_MODEL"
            )
        query, passages = (request.grounding.query, request.grounding.passages) if request.grounding else ("", ())
        text = compose_answer(query, passages, self._terms_for(passages))
        pieces = re.findall(r"\S+\s*", text)
        if on_token:
            for piece in pieces:
                await on_token(piece)
        words_in = sum(len(passage.text.split()) for passage in passages) + len(query.split())
        return Completion(
            text=text, model=self.name, usage=TokenUsage(input_tokens=words_in, output_tokens=len(pieces))
        )

    async def close(self) -> None:
        """Hold nothing open."""


def compose_answer(query: str, passages: Sequence[Passage], terms: Terms = english_stems) -> str:
    """The best sentences, each with the number of its passage: `Cats sleep all day. [2]`."""
    sentences = [
        sentence
        for n, passage in enumerate(passages, 1)
        for sentence in _sentences(n, passage.text, terms)
        if not _LIKE_A_CITATION.search(sentence.text)
    ]
    chosen = _choose(terms(query), sentences)
    return " ".join(f"{sentence.text} [{sentence.passage}]" for sentence in chosen) or NOTHING_FOUND


def best_sentence(passage: str, about: str, terms: Terms = english_stems) -> str:
    """The sentence of `passage` that has most in common with `about`; its beginning where none has anything."""
    sentences = list(_sentences(1, passage, terms))
    wanted = terms(about)
    best = max(sentences, key=lambda sentence: len(wanted & sentence.terms), default=None)
    return best.text if best else _shorten(" ".join(passage.split()))


def _sentences(number: int, text: str, terms_of: Terms) -> Iterator[_Sentence]:
    heading: frozenset[str] = frozenset()
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]
    for n, paragraph in enumerate(paragraphs, 1):
        if n < len(paragraphs) and _HEADING.fullmatch(paragraph):
            heading = terms_of(paragraph)
            continue
        for match in _SENTENCE.finditer(_SOFT_BREAK.sub(" ", paragraph)):
            sentence = " ".join(match.group().split())
            if len(sentence) >= MIN_SENTENCE_CHARACTERS:
                sentence = _shorten(sentence)
                terms = terms_of(sentence)
                yield _Sentence(sentence, number, terms, heading - terms)


def _shorten(sentence: str) -> str:
    if len(sentence) <= MAX_SENTENCE_CHARACTERS:
        return sentence
    return sentence[:MAX_SENTENCE_CHARACTERS].rsplit(" ", 1)[0] + " …"


def _choose(question: frozenset[str], sentences: Sequence[_Sentence]) -> list[_Sentence]:
    idf = _idf(sentences)
    whole = sum(idf.get(term, math.log(1 + len(sentences))) for term in question)
    scores = {n: _coverage(question, sentence, idf) / whole for n, sentence in enumerate(sentences) if whole}
    left = [n for n, score in scores.items() if score >= _MIN_COVERAGE]
    chosen: list[int] = []
    while left and len(chosen) < MAX_SENTENCES:
        best = max(left, key=lambda n: (_marginal(sentences, scores, chosen, n), -n))
        chosen.append(best)
        left.remove(best)
        left = [n for n in left if _overlap(sentences, chosen, n) < _REDUNDANCY and scores[n] >= scores[chosen[0]] / 2]
    return [sentences[n] for n in chosen]


def _coverage(question: frozenset[str], sentence: _Sentence, idf: dict[str, float]) -> float:
    """The weight of the question's terms that stand in the sentence, or above it."""
    own = sum(idf[term] for term in question & sentence.terms)
    return own + _HEADING_SHARE * sum(idf[term] for term in question & sentence.heading)


def _marginal(sentences: Sequence[_Sentence], scores: dict[int, float], chosen: Sequence[int], n: int) -> float:
    return scores[n] + _RANK_SHARE / sentences[n].passage - _overlap(sentences, chosen, n) / 2


def _overlap(sentences: Sequence[_Sentence], chosen: Sequence[int], n: int) -> float:
    """The largest share of terms (Jaccard) that the sentence has in common with a chosen one."""
    mine = sentences[n].terms
    return max((len(mine & sentences[c].terms) / len(mine | sentences[c].terms) for c in chosen), default=0.0)


def _idf(sentences: Sequence[_Sentence]) -> dict[str, float]:
    counts = Counter(term for sentence in sentences for term in sentence.terms | sentence.heading)
    return {term: math.log(1 + len(sentences) / count) for term, count in counts.items()}
