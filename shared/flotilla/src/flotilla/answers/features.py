"""What confidence is computed from: figures of the search, of the support, and of the model's own probabilities.

All are numbers from 0 to about 2. One that can't be had (no embeddings, no log-probabilities) is left out, never 0.
"""

import math
from collections.abc import Sequence

from flotilla.answers.words import analysis_for_passages
from flotilla.contracts.tasks import Passage, Statement
from flotilla.llm import Completion

MOST_COUNTED = 8
MARGIN_RANK = 3
"""The passage that the first one is compared with."""


def features_of_search(question: str, passages: Sequence[Passage], default_language: str = "en") -> dict[str, float]:
    """Return of the search by words: `words` (the best passage), `mean` (of all passages), `margin` (of the best over
    a later one); of the question's words: `held` (the largest share in one passage), `together` (the share in any),
    `count` (how many in one passage, up to 8, as a share of these); with embeddings: `meaning` (the nearest passage)
    and `agreement` (the share of passages that both sides found); with a reranker: `relevance` (the best passage)."""
    by_words = [one.by_words for one in passages if one.by_words is not None]
    if not by_words:
        return {}
    ranked = sorted(by_words, reverse=True)
    features = {
        "words": ranked[0],
        "mean": sum(ranked) / len(ranked),
        "margin": ranked[0] - ranked[min(MARGIN_RANK, len(ranked)) - 1],
        **_held(question, passages, default_language),
    }
    by_meaning = [one.by_meaning for one in passages if one.by_meaning is not None]
    if by_meaning:
        both = sum(1 for one in passages if one.by_words and one.by_meaning is not None)
        features |= {"meaning": max(by_meaning), "agreement": both / len(passages)}
    by_reranker = [one.by_reranker for one in passages if one.by_reranker is not None]
    if by_reranker:
        features["relevance"] = max(by_reranker)
    return {name: round(value, 4) for name, value in features.items()}


def features_of_answer(completion: Completion, statements: Sequence[Statement]) -> dict[str, float]:
    """Return `support` (mean over the sentences that can be checked) and `probability` (geometric mean of tokens)."""
    checked = [one.support if one.supported else one.support / 2 for one in statements if one.supported is not None]
    features = {"support": sum(checked) / len(checked)} if checked else {}
    if completion.logprobs:
        mean = math.fsum(completion.logprobs) / len(completion.logprobs)
        features["probability"] = math.exp(min(mean, 0.0))
    return {name: round(value, 4) for name, value in features.items()}


def _held(question: str, passages: Sequence[Passage], default_language: str) -> dict[str, float]:
    terms = analysis_for_passages(passages, default_language)
    asked = terms(question)
    held = [asked & terms(f"{one.source.title}\n{one.text}") for one in passages]
    most, size = max(map(len, held)), max(len(asked), 1)
    together = len(frozenset[str]().union(*held))
    return {"held": most / size, "together": together / size, "count": min(most, MOST_COUNTED) / MOST_COUNTED}
