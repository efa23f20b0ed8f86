"""A calibration that is fitted says how often it is right."""

import json
import random
from pathlib import Path

import msgspec
import pytest

from flotilla.answers.calibration import read_calibrations
from flotilla.answers.fitting import BY_WORDS, Case, TooFewCases, fit, fit_isotonic_regression, fit_logistic_regression
from flotilla.contracts.errors import ConfigurationError


def cases(count: int, seed: int) -> list[Case]:
    """Questions whose chance of an answer grows with `words`; the other features are noise."""
    draw = random.Random(seed)  # noqa: S311 - drawn alike in every run
    made = []
    for _ in range(count):
        words = draw.random()
        answerable = draw.random() < words
        features = {name: draw.random() for name in BY_WORDS} | {"words": words, "support": 1.0}
        made.append(Case(features, answerable, answerable and draw.random() < 0.9))
    return made


def brier(values: list[tuple[float, bool]]) -> float:
    return sum((value - right) ** 2 for value, right in values) / len(values)


def test_on_questions_it_was_not_fitted_on_it_beats_every_constant() -> None:
    fitted = fit(cases(300, 1), model="m")
    others = cases(1000, 2)
    said = [(fitted.correctness_probability(one.features) or 0.0, one.right) for one in others]
    share = sum(right for _, right in said) / len(said)
    assert brier(said) < share * (1 - share) - 0.05
    sure = [right for value, right in said if value > 0.7]
    assert len(sure) > 100
    assert 0.7 < sum(sure) / len(sure) < 0.95


def test_on_questions_it_was_not_fitted_on_it_errs_as_stated() -> None:
    others, more = cases(1000, 3), list[float]()
    answerable, unanswerable = ([one for one in others if one.answerable is so] for so in (True, False))
    for seed in range(20, 40):
        fitted = fit(cases(40, seed), model="m", refused=0.1)
        [stage] = fitted.stages
        refused = sum(fitted.abstains(one.features) for one in answerable) / len(answerable)
        answered = sum(not fitted.abstains(one.features) for one in unanswerable) / len(unanswerable)
        more.append(refused - stage.refused_answerable + answered - stage.answered_unanswerable)
        assert stage.refused_answerable <= 0.1
        assert stage.questions == 40
    assert sum(more) / len(more) < 0.03


def test_features_that_are_not_there_leave_it_to_a_stage_without_them() -> None:
    with_meaning = [
        Case({**one.features, "meaning": one.features["words"], "agreement": 0.5}, one.answerable, one.right)
        for one in cases(200, 4)
    ]
    fitted = fit(with_meaning, model="m")
    assert len(fitted.stages) == 2
    assert fitted.correctness_probability(with_meaning[0].features) is not None
    assert fitted.correctness_probability(cases(1, 5)[0].features) is not None
    assert fitted.correctness_probability({"words": 1.0}) is None
    assert not fitted.abstains({})


def test_too_few_questions_or_only_right_ones_are_refused() -> None:
    with pytest.raises(TooFewCases):
        fit(cases(10, 6), model="m")
    with pytest.raises(TooFewCases):
        fit([Case(one.features, answerable=True, right=True) for one in cases(100, 7)], model="m")


def test_isotonic_regression_ascends_and_never_is_certain() -> None:
    knots = fit_isotonic_regression([0.1, 0.2, 0.3, 0.4, 0.5, 0.6] * 5, [False, True, False, True, True, True] * 5)
    shares = [share for _, share in knots]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1


def test_logistic_regression_finds_what_decides() -> None:
    draw = random.Random(8)  # noqa: S311 - drawn alike in every run
    rows = [[draw.random(), draw.random()] for _ in range(500)]
    [decides, noise], _ = fit_logistic_regression(rows, [row[0] > 0.5 for row in rows])
    assert decides > 5 * abs(noise)


def test_what_is_shipped_is_of_the_built_in_model_and_an_own_one_of_every_model(tmp_path: Path) -> None:
    assert read_calibrations(None).of("gpt-4.1") is None
    assert read_calibrations(None).of("flotilla-extractive-1") is not None
    path = tmp_path / "own.json"
    path.write_bytes(msgspec.json.encode(fit(cases(100, 9), model="gpt-4.1")))
    own = read_calibrations(path)
    assert own.of("gpt-4.1") == own.of("flotilla-extractive-1") == fit(cases(100, 9), model="gpt-4.1")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"model": "m", "stages": [{}]}', '{"model": "m", "stages": [], "more": 1}'],
)
def test_a_file_that_is_no_calibration_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"FLOTILLA_CALIBRATION_FILE is .*own\.json.*flotilla eval fit"):
        read_calibrations(path)


def test_a_curve_that_does_not_ascend_is_refused(tmp_path: Path) -> None:
    made = json.loads(msgspec.json.encode(fit(cases(100, 10), model="m")))
    made["stages"][0]["right"]["shares"].reverse()
    path = tmp_path / "own.json"
    path.write_text(json.dumps(made))
    with pytest.raises(ConfigurationError, match="ascend"):
        read_calibrations(path)


def test_a_rerankers_relevance_is_a_stage_of_its_own() -> None:
    draw = random.Random(6)  # noqa: S311 - drawn alike in every run
    reranked = [
        Case({**one.features, "words": draw.random(), "relevance": one.features["words"]}, one.answerable, one.right)
        for one in cases(200, 5)
    ]
    fitted = fit(reranked, model="m")
    assert [set(stage.answerable.features) - {*BY_WORDS} for stage in fitted.stages] == [{"relevance"}, set()]
    known = dict.fromkeys(BY_WORDS, 0.5)
    assert fitted.abstains({**known, "relevance": 0.0})
    assert not fitted.abstains({**known, "relevance": 1.0})
