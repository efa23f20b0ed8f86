"""Figures over the outcomes of a set's questions. Each is an average with the number of questions that it is over."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

DEPTHS = (1, 5, 10)
BINS = 10


@dataclass(frozen=True)
class AnsweredQuestion:
    """One question's answer by the fleet."""

    status: str
    cites: bool
    """Whether it cites anything; an answer that does not is an abstention."""
    right: bool
    """Whether it cites or says something of what is expected."""
    confidence: float
    seconds: float
    tokens: int
    model: str = ""
    features: dict[str, float] = field(default_factory=dict)
    """What the confidence was computed from."""
    sentences: int = 0
    unsupported: int = 0
    """Sentences that their sources do not support, as the fleet sees it."""


@dataclass(frozen=True)
class QuestionOutcome:
    """One question, what the search found, and what was answered."""

    id: str
    question: str
    answerable: bool
    expected: int
    hits: list[list[str]] = field(default_factory=list)
    """For each passage in order, what of the expected it is or holds."""
    seconds: float = 0.0
    answer: AnsweredQuestion | None = None

    @property
    def first_expected_rank(self) -> int | None:
        """The rank of the first passage that is expected, from 1."""
        return next((rank for rank, hit in enumerate(self.hits, 1) if hit), None)

    def expected_share(self, depth: int) -> float:
        """The share of the expected among the first passages."""
        found = {one for hit in self.hits[:depth] for one in hit}
        return len(found) / self.expected

    def gain(self, depth: int) -> float:
        """Normalized discounted cumulative gain: each expected thing counts once, where it is first found."""
        seen: set[str] = set()
        gain = 0.0
        for rank, hit in enumerate(self.hits[:depth], 1):
            gain += len(set(hit) - seen) / math.log2(rank + 1)
            seen.update(hit)
        best = math.fsum(1 / math.log2(rank + 1) for rank in range(1, min(self.expected, depth) + 1))
        return min(1.0, gain / best)


def compute_figures(outcomes: Sequence[QuestionOutcome], depth: int) -> dict[str, float]:
    """All figures that these outcomes allow."""
    findable = [one for one in outcomes if one.answerable]
    found: dict[str, float | None] = {
        **{f"recall@{k}": mean(one.expected_share(k) for one in findable) for k in DEPTHS if k <= depth},
        "mrr": mean(1 / one.first_expected_rank if one.first_expected_rank else 0.0 for one in findable),
        f"ndcg@{depth}": mean(one.gain(depth) for one in findable),
        **times("search", [one.seconds for one in outcomes]),
    }
    answered = [(one, one.answer) for one in outcomes if one.answer]
    if answered:
        found |= _figures_of_answers(answered)
    return {name: round(value, 4) for name, value in found.items() if value is not None}


def _figures_of_answers(answered: Sequence[tuple[QuestionOutcome, AnsweredQuestion]]) -> dict[str, float | None]:
    findable = [answer for one, answer in answered if one.answerable]
    others = [answer for one, answer in answered if not one.answerable]
    calibrated = [(answer.confidence, answer.right) for _, answer in answered]
    sentences = sum(answer.sentences for _, answer in answered)
    return {
        "right": mean(answer.right for answer in findable),
        "supported": mean(answer.right for answer in findable if answer.cites),
        "false_abstention": mean(not answer.cites for answer in findable),
        "missed_abstention": mean(answer.cites for answer in others),
        "unsupported_sentences": sum(a.unsupported for _, a in answered) / sentences if sentences else None,
        "failed": mean(answer.status != "success" for _, answer in answered),
        "brier": mean((confidence - right) ** 2 for confidence, right in calibrated),
        "brier_of_best_constant": _constant([right for _, right in calibrated]),
        "ece": _expected_calibration_error(calibrated),
        "tokens": mean(answer.tokens for _, answer in answered),
        **times("answer", [answer.seconds for _, answer in answered]),
    }


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None


def _constant(rights: Sequence[bool]) -> float:
    """The Brier score of one who always says the share of right answers."""
    share = sum(rights) / len(rights)
    return share * (1 - share)


def _expected_calibration_error(calibrated: Sequence[tuple[float, bool]]) -> float:
    """How far confidence is from the share of right answers, over bins of equal width."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for one in calibrated:
        bins.setdefault(min(int(one[0] * BINS), BINS - 1), []).append(one)
    return math.fsum(abs(math.fsum(confidence - right for confidence, right in each)) for each in bins.values()) / len(
        calibrated
    )


def reliability_bins(outcomes: Sequence[QuestionOutcome]) -> list[dict[str, float]]:
    """For each bin of confidence that has answers: how many, how sure they were, how many were right."""
    answered = [(one.answer.confidence, one.answer.right) for one in outcomes if one.answer]
    rows = []
    for place in range(BINS):
        inside = [each for each in answered if min(int(each[0] * BINS), BINS - 1) == place]
        if inside:
            confidence, right = mean(each[0] for each in inside), mean(each[1] for each in inside)
            rows.append(
                {"answers": len(inside), "confidence": round(confidence or 0, 4), "right": round(right or 0, 4)}
            )
    return rows


def times(name: str, seconds: Sequence[float]) -> dict[str, float | None]:
    """The median and the 95th percentile of `seconds`."""
    if len(seconds) < 2:  # noqa: PLR2004 - quantiles need two
        return {f"{name}_p50_s": seconds[0] if seconds else None}
    cuts = quantiles(seconds, n=20, method="inclusive")
    return {f"{name}_p50_s": cuts[9], f"{name}_p95_s": cuts[18]}
