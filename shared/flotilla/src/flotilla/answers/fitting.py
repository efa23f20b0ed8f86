"""Fits a calibration to judged answers: logistic regression on the features, then isotonic regression on its scores.

Shares, threshold and error rates come from scores by regressions that had not seen the case: what is fitted to a few
hundred questions flatters itself on them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flotilla.answers.calibration import Calibration, CalibrationStage, LogisticCurve

MIN_CASES = 20
RIDGE = 1.0
"""How much weights are held back; features are of the same order, and sets are small."""
ROUNDS = 50
FOLDS = 10
"""Parts of the cases, each of which is scored by what was fitted to the others."""
MIN_STEP = 5
"""Cases that a step of the isotonic regression is over, at least: fewer say little."""
REFUSED = 0.05
"""Of answerable questions, the share that may be refused."""
BY_WORDS = ("words", "mean", "margin", "held", "together", "count")
BY_BOTH = (*BY_WORDS, "meaning", "agreement")
OF_SEARCHES = ((*BY_BOTH, "relevance"), (*BY_WORDS, "relevance"), BY_BOTH, BY_WORDS)
FEATURES = tuple((*names, *more) for names in OF_SEARCHES for more in (("support", "probability"), ("support",)))
"""Of the stages."""
_OF_ANSWER = frozenset(("support", "probability"))


@dataclass(frozen=True, slots=True)
class Case:
    """A question with what is known of its answer, as it was or would have been."""

    features: dict[str, float]
    answerable: bool
    right: bool


class TooFewCases(ValueError):
    """There is not enough to fit anything to."""


def fit(cases: Sequence[Case], *, model: str, refused: float = REFUSED) -> Calibration:
    """Return the calibration of `cases`; `refused` is the share of answerable questions that may be refused.

    Raises:
        TooFewCases: fewer than 20 cases have the features of a search, or all are alike.
    """
    stages = [stage for names in FEATURES if (stage := _stage(cases, names, refused)) is not None]
    if not stages:
        raise TooFewCases(
            f"{len(cases)} answers are not enough, or they are all alike: at least {MIN_CASES} with features are "
            "needed, right and wrong ones, of answerable and of unanswerable questions"
        )
    return Calibration(model=model, stages=tuple(stages))


def _stage(cases: Sequence[Case], names: Sequence[str], refused: float) -> CalibrationStage | None:
    of_search = tuple(name for name in names if name not in _OF_ANSWER)
    usable = _searched_alike([case for case in cases if all(name in case.features for name in of_search)], of_search)
    answered = [case for case in usable if all(name in case.features for name in names)]
    if (
        min(len(usable), len(answered)) < MIN_CASES
        or not _differ(usable, _is_answerable)
        or not _differ(answered, _is_right)
    ):
        return None
    unseen = list(zip(_unseen_scores(usable, of_search, _is_answerable), usable, strict=True))
    threshold = _threshold([score for score, case in unseen if case.answerable], refused)
    return CalibrationStage(
        answerable=_curve(usable, of_search, _is_answerable),
        right=_curve(answered, tuple(names), _is_right),
        abstain_below=threshold,
        refused_answerable=_share(score < threshold for score, case in unseen if case.answerable),
        answered_unanswerable=_share(score >= threshold for score, case in unseen if not case.answerable),
        questions=len(usable),
    )


def _searched_alike(cases: list[Case], names: Sequence[str]) -> list[Case]:
    """Those without further features of a search, which finds other passages; all, where there are too few of them."""
    alike = [case for case in cases if not (case.features.keys() - _OF_ANSWER - set(names))]
    return alike if len(alike) >= MIN_CASES else cases


def _is_answerable(case: Case) -> bool:
    return case.answerable


def _is_right(case: Case) -> bool:
    return case.right


def _differ(cases: Sequence[Case], is_so: Callable[[Case], bool]) -> bool:
    return 0 < sum(map(is_so, cases)) < len(cases)


def _share(values: Iterable[bool]) -> float:
    listed = list(values)
    return round(sum(listed) / len(listed), 4)


def _threshold(scores: Sequence[float], refused: float) -> float:
    """The score below which at most that share of answerable questions is."""
    ordered = sorted(scores)
    return math.floor(ordered[min(int(refused * len(ordered)), len(ordered) - 1)] * 10_000) / 10_000


def _curve(cases: Sequence[Case], names: tuple[str, ...], is_so: Callable[[Case], bool]) -> LogisticCurve:
    weights, bias = _fitted(cases, names, is_so)
    knots = fit_isotonic_regression(_unseen_scores(cases, names, is_so), [is_so(case) for case in cases])
    return LogisticCurve(
        features=names,
        weights=tuple(round(weight, 6) for weight in weights),
        bias=round(bias, 6),
        scores=tuple(round(score, 4) for score, _ in knots),
        shares=tuple(round(share, 4) for _, share in knots),
    )


def _fitted(cases: Sequence[Case], names: Sequence[str], is_so: Callable[[Case], bool]) -> tuple[list[float], float]:
    rows = [[case.features[name] for name in names] for case in cases]
    return fit_logistic_regression(rows, [is_so(case) for case in cases])


def _unseen_scores(cases: Sequence[Case], names: Sequence[str], is_so: Callable[[Case], bool]) -> list[float]:
    """The score of each case by what is fitted to the other parts; each part has its share of both kinds."""
    scores = [0.0] * len(cases)
    ordered = sorted(range(len(cases)), key=lambda at: is_so(cases[at]))
    for fold in range(FOLDS):
        part = ordered[fold::FOLDS]
        others = [cases[at] for at in set(ordered).difference(part)]
        weights, bias = _fitted(others if _differ(others, is_so) else cases, names, is_so)
        for at in part:
            features = cases[at].features
            scores[at] = bias + sum(w * features[name] for w, name in zip(weights, names, strict=True))
    return scores


def fit_logistic_regression(rows: Sequence[Sequence[float]], targets: Sequence[bool]) -> tuple[list[float], float]:
    """Return weights and bias of the ridge logistic regression of `targets` on `rows`, by Newton's method."""
    size = len(rows[0]) + 1
    theta = [0.0] * size
    for _ in range(ROUNDS):
        gradient = [RIDGE * value for value in theta[:-1]] + [0.0]
        hessian = [[RIDGE if i == j < size - 1 else 0.0 for j in range(size)] for i in range(size)]
        for row, target in zip(rows, targets, strict=True):
            _add(gradient, hessian, [*row, 1.0], theta, target)
        step = _solved(hessian, gradient)
        theta = [value - change for value, change in zip(theta, step, strict=True)]
        if max(map(abs, step)) < 1e-9:  # noqa: PLR2004 - it has converged
            break
    return theta[:-1], theta[-1]


def _add(
    gradient: list[float], hessian: list[list[float]], row: Sequence[float], theta: Sequence[float], target: bool
) -> None:
    chance = _sigmoid(sum(w * x for w, x in zip(theta, row, strict=True)))
    weight = max(chance * (1 - chance), 1e-9)
    for i, value in enumerate(row):
        gradient[i] += (chance - target) * value
        for j, other in enumerate(row):
            hessian[i][j] += weight * value * other


def _sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


def _solved(matrix: list[list[float]], vector: list[float]) -> list[float]:
    """The solution of a positive definite system, by Gaussian elimination."""
    rows = [[*row, value] for row, value in zip(matrix, vector, strict=True)]
    size = len(rows)
    for at in range(size):
        pivot = max(range(at, size), key=lambda i: abs(rows[i][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        for below in range(at + 1, size):
            factor = rows[below][at] / rows[at][at]
            rows[below] = [x - factor * y for x, y in zip(rows[below], rows[at], strict=True)]
    found = [0.0] * size
    for at in reversed(range(size)):
        rest = sum(rows[at][i] * found[i] for i in range(at + 1, size))
        found[at] = (rows[at][size] - rest) / rows[at][at]
    return found


@dataclass(slots=True)
class _Pool:
    """Cases with scores next to each other, which get one share."""

    scores: float
    cases: int
    hits: int

    @property
    def share(self) -> float:
        """Never 0 or 1: a few cases do not make certain."""
        return (self.hits + 0.5) / (self.cases + 1)


def fit_isotonic_regression(scores: Sequence[float], targets: Sequence[bool]) -> list[tuple[float, float]]:
    """Return mean score and share of each pool, both ascending, by pooling adjacent violators."""
    pools: list[_Pool] = []
    for score, target in sorted(zip(scores, targets, strict=True)):
        pools.append(_Pool(score, 1, int(target)))
        while len(pools) > 1 and (pools[-2].cases < MIN_STEP or pools[-2].share >= pools[-1].share):
            _merge_last(pools)
    while len(pools) > 1 and (pools[-1].cases < MIN_STEP or pools[-2].share >= pools[-1].share):
        _merge_last(pools)
    return [(pool.scores / pool.cases, pool.share) for pool in pools]


def _merge_last(pools: list[_Pool]) -> None:
    last = pools.pop()
    before = pools[-1]
    before.scores += last.scores
    before.cases += last.cases
    before.hits += last.hits
