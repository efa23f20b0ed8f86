"""How sure an answer is: computed, never asked of the model, and it says from what."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flotilla.contracts.session_events import Source
from flotilla.contracts.tasks import ConfidenceBasis
from flotilla.llm.model import Completion

UNSUPPORTED_LIMIT = 0.2
"""The most for an answer that cites nothing."""
_HALF_SCORE = 0.5
"""Retrieval score at which confidence is one half; a score is the share of the query that the passage holds."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """From 0 to 1, and what it was computed from."""

    value: float
    basis: ConfidenceBasis


def compute_confidence(completion: Completion, cited: Sequence[Source]) -> Confidence:
    """From the tokens' probabilities where the endpoint gave them (their geometric mean), else from the best retrieval
    score among the sources that the answer cites."""
    if completion.logprobs:
        mean = math.fsum(completion.logprobs) / len(completion.logprobs)
        value, basis = math.exp(min(mean, 0.0)), _LOGPROBS
    else:
        score = max((source.score for source in cited), default=0.0)
        value, basis = score / (score + _HALF_SCORE) if score > 0 else 0.0, _SCORES
    return Confidence(round(value if cited else min(value, UNSUPPORTED_LIMIT), 4), basis)


_LOGPROBS: ConfidenceBasis = "token_logprobs"
_SCORES: ConfidenceBasis = "retrieval_scores"
