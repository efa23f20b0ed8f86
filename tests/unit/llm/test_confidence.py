import math

import pytest

from flotilla.contracts.session_events import Source
from flotilla.llm import Completion, compute_confidence
from flotilla.llm.confidence import UNSUPPORTED_LIMIT


def source(score: float) -> Source:
    return Source(document_id="d", title="T", uri="u", passage_id="1", start=0, end=1, score=score)


def completion(*logprobs: float) -> Completion:
    return Completion(text="x", model="m", logprobs=logprobs)


def test_log_probabilities_decide_where_there_are_any() -> None:
    confidence = compute_confidence(completion(math.log(0.9), math.log(0.4)), [source(1)])
    assert (confidence.value, confidence.basis) == (0.6, "token_logprobs")


def test_else_the_best_cited_passage_decides() -> None:
    low, high = (compute_confidence(completion(), [source(0.1), source(best)]) for best in (0.5, 2.0))
    assert (low.value, low.basis, high.value) == (0.5, "retrieval_scores", 0.8)


@pytest.mark.parametrize("logprobs", [(), (0.0, 0.0)])
def test_an_answer_that_cites_nothing_is_not_trusted(logprobs: tuple[float, ...]) -> None:
    assert compute_confidence(completion(*logprobs), []).value <= UNSUPPORTED_LIMIT


def test_a_probability_above_one_is_one() -> None:
    assert compute_confidence(completion(0.3), [source(1)]).value == 1.0
