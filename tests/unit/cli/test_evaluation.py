"""Figures of an evaluation, against values that were computed by hand."""

import codecs
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flotilla.answers.calibration import read_calibrations
from flotilla.answers.fitting import BY_WORDS
from flotilla_cli.errors import Misuse
from flotilla_cli.evaluation.feedback import questions_from_feedback
from flotilla_cli.evaluation.figures import AnsweredQuestion, QuestionOutcome, compute_figures, reliability_bins
from flotilla_cli.evaluation.fitting import fit_calibration_to_report, write_calibration
from flotilla_cli.evaluation.questions import EvaluationQuestion, read_question_set
from flotilla_cli.evaluation.report import changed_outcomes, evaluation_report, parse_requirement, read_report
from flotilla_cli.evaluation.running import EvaluationRunner


def outcome(name: str, *hits: list[str], expected: int = 1, answer: AnsweredQuestion | None = None) -> QuestionOutcome:
    return QuestionOutcome(name, f"{name}?", bool(expected), expected, list(hits), 0.5, answer)


def answer(*, cites: bool = True, right: bool = True, confidence: float = 1.0) -> AnsweredQuestion:
    return AnsweredQuestion("success", cites, right and cites, confidence, 2.0, 100)


def test_figures_of_a_search() -> None:
    outcomes = [outcome("a", ["x"]), outcome("b", [], ["x"]), outcome("c", [], []), outcome("d", expected=0)]
    found = compute_figures(outcomes, 10)
    assert (found["recall@1"], found["recall@5"]) == (0.3333, 0.6667)
    assert found["mrr"] == 0.5
    assert found["ndcg@10"] == round((1 + 0.6309 + 0) / 3, 4)


def test_recall_counts_each_expected_thing_once() -> None:
    two = outcome("a", ["x"], ["x"], [], ["x", "y"], expected=2)
    assert (two.expected_share(1), two.expected_share(3), two.expected_share(5)) == (0.5, 0.5, 1.0)
    assert two.gain(3) == pytest.approx(1 / 1.6309, abs=1e-3)
    assert outcome("b", ["x", "y"], expected=2).gain(10) == 1.0


def test_abstention_is_false_where_an_answer_was_expected_and_missed_where_none_was() -> None:
    outcomes = [
        outcome("a", ["x"], answer=answer()),
        outcome("b", ["x"], answer=answer(cites=False, confidence=0.0)),
        outcome("c", expected=0, answer=answer(right=False, confidence=0.5)),
        outcome("d", expected=0, answer=answer(cites=False, confidence=0.0)),
    ]
    found = compute_figures(outcomes, 5)
    assert (found["false_abstention"], found["missed_abstention"], found["right"]) == (0.5, 0.5, 0.5)
    assert found["supported"] == 1.0
    # Confidence is how likely the answer was found, and only a is right: (1-1)^2, (0-0)^2, (0.5-0)^2, (0-0)^2
    assert found["brier"] == pytest.approx(0.25 / 4, abs=1e-4)
    assert found["brier_of_best_constant"] == 0.25 * 0.75


def test_calibration_is_measured_over_bins() -> None:
    outcomes = [outcome(str(n), ["x"], answer=answer(confidence=0.95, right=n < 6)) for n in range(10)]
    assert compute_figures(outcomes, 5)["ece"] == pytest.approx(0.35)
    assert reliability_bins(outcomes) == [{"answers": 10, "confidence": 0.95, "right": 0.6}]


def test_a_passage_is_expected_by_its_address_or_its_words() -> None:
    question = EvaluationQuestion("1", "?", ("wiki/a.md",), ("Nine  days",))
    passage = {"source": {"uri": "https://x.example/wiki/a.md"}, "text": "It takes nine\ndays."}
    assert question.found_in(passage) == {"wiki/a.md", "Nine  days"}
    assert question.found_in({"source": {"uri": "https://x.example/otherwiki/a.md"}, "text": "nine"}) == frozenset()


def a_set(folder: Path, *rows: Any) -> Path:
    path = folder / "set.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "no question"),
        ({"question": " "}, "no question"),
        ({"question": "a", "url": "b"}, "unknown field url"),
        ({"question": "a"}, "expects uris or texts"),
        ({"question": "a", "uris": ["b"], "answerable": False}, "expects uris or texts"),
        ({"question": "a", "uris": "b"}, "not a list"),
        ({"question": "a", "uris": ["b"], "answerable": "yes"}, "expects uris or texts"),
    ],
)
def test_a_wrong_line_of_a_set_is_named(tmp_path: Path, row: Any, reason: str) -> None:
    with pytest.raises(Misuse, match=rf"set\.jsonl:2: .*{reason}"):
        read_question_set(a_set(tmp_path, {"question": "first", "uris": ["a"]}, row))


def test_a_set_is_read_and_an_id_used_twice_refused(tmp_path: Path) -> None:
    path = a_set(tmp_path, {"question": "a", "texts": ["b"]}, "", {"question": "c", "answerable": False, "id": "x"})
    assert [(one.id, one.answerable) for one in read_question_set(path)] == [("1", True), ("x", False)]
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert [one.id for one in read_question_set(path)] == ["1", "x"]
    with pytest.raises(Misuse, match="used twice"):
        read_question_set(a_set(tmp_path, *[{"question": "a", "texts": ["b"], "id": "x"}] * 2))
    with pytest.raises(Misuse, match="no question"):
        read_question_set(a_set(tmp_path))


def test_two_reports_are_compared_question_by_question(tmp_path: Path) -> None:
    before = evaluation_report([outcome("a", ["x"]), outcome("b", [], ["x"]), outcome("gone", ["x"])], 5)
    path = tmp_path / "before.json"
    path.write_text(json.dumps(before))
    now = evaluation_report([outcome("a", ["x"]), outcome("b", ["x"]), outcome("new", [])], 5)
    assert [(one["id"], one["before"], one["now"]) for one in changed_outcomes(read_report(path), now)] == [
        ("b", "rank 2", "rank 1"),
        ("new", "not asked", "not found"),
        ("gone", "rank 1", "not asked"),
    ]
    path.write_text("[]")
    with pytest.raises(Misuse, match="no report"):
        read_report(path)


def test_requirements_are_kept_or_broken() -> None:
    figures = {"recall@5": 0.8, "brier": 0.3}
    assert parse_requirement("recall@5 >= 0.8").why_not_met(figures) is None
    assert parse_requirement("brier<=0.2").why_not_met(figures) == "brier is 0.3, required is <= 0.2"
    with pytest.raises(Misuse, match="no figure mrr"):
        parse_requirement("mrr>=0.1").why_not_met(figures)
    for wrong in ("recall@5", "recall@5=0.9", "recall@5>=", "a>=1.2.3"):
        with pytest.raises(Misuse, match="not a requirement"):
            parse_requirement(wrong)


def judged(number: int) -> QuestionOutcome:
    """A question whose passages hold more of its words the higher its number; from 20 on it is answerable."""
    features = {**dict.fromkeys(BY_WORDS, number / 40), "support": 1.0}
    answered = replace(answer(right=number > 25), model="m" if number else "none", features=features)
    return outcome(str(number), ["x"], expected=int(number >= 20), answer=answered)


def test_a_calibration_is_fitted_to_a_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(evaluation_report([judged(number) for number in range(40)], 5)))
    calibration = fit_calibration_to_report(read_report(path), refused=0.05)
    write_calibration(calibration, tmp_path / "calibration.json")
    read = read_calibrations(tmp_path / "calibration.json").of("any")
    assert read == calibration
    assert calibration.model == "m"
    assert calibration.abstains(dict.fromkeys(BY_WORDS, 0.1))
    assert not calibration.abstains(dict.fromkeys(BY_WORDS, 0.9))


def test_a_report_without_answers_or_with_a_few_fits_nothing(tmp_path: Path) -> None:
    for outcomes in ([outcome("a", ["x"])], [judged(number) for number in range(15, 30)]):
        with pytest.raises(Misuse, match="nothing can be fitted"):
            fit_calibration_to_report(evaluation_report(outcomes, 5), refused=0.05)
    with pytest.raises(Misuse, match="can't be written"):
        write_calibration(
            fit_calibration_to_report(evaluation_report([judged(n) for n in range(40)], 5), refused=0.05), tmp_path
        )


def test_sentences_without_support_are_counted() -> None:
    answered = replace(answer(), sentences=3, unsupported=1)
    assert compute_figures([outcome("a", ["x"], answer=answered)], 5)["unsupported_sentences"] == 0.3333
    assert "unsupported_sentences" not in compute_figures([outcome("a", ["x"], answer=answer())], 5)


class Fleet:
    """Finds a passage of a.md, and answers on the second look."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()
        self.asked: list[str] = []

    def get(self, path: str, **_: object) -> Any:
        source = {"uri": "a.md", "quote": ""}
        if path == "/documents/search":
            return {"passages": [{"source": source, "text": "words"}]}
        result = {"answer": "Nine days [1].", "sources": [source], "confidence": 0.7, "usage": {"input_tokens": 9}}
        return {"run_id": "r", "status": "success", "result": result}

    def post(self, path: str, body: dict[str, Any]) -> Any:
        self.sessions.add(path)
        self.asked.append(body["query"])
        return {"run_id": "r", "status": "running"}


def test_each_question_is_asked_in_a_session_of_its_own() -> None:
    fleet = Fleet()
    runner = EvaluationRunner(fleet, depth=5, answers=True, parallel=2)  # type: ignore[arg-type]
    first, second = runner.run(
        [EvaluationQuestion("1", "a", ("a.md",)), EvaluationQuestion("2", "b", ("b.md",))], show_progress=False
    )
    assert (first.hits, second.hits) == ([["a.md"]], [[]])
    assert first.answer
    assert second.answer
    assert (first.answer.right, second.answer.right, first.answer.tokens) == (True, False, 9)
    assert len(fleet.sessions) == 2


def test_a_follow_up_is_asked_after_the_questions_before_it_in_the_same_session() -> None:
    fleet = Fleet()
    runner = EvaluationRunner(fleet, depth=5, answers=True, parallel=1)  # type: ignore[arg-type]
    runner.run([EvaluationQuestion("1", "And b?", ("a.md",), after=("What is a?",))], show_progress=False)
    assert fleet.asked == ["What is a?", "And b?"]
    assert len(fleet.sessions) == 1


def test_a_set_holds_the_questions_of_answers_that_nobody_found_bad(tmp_path: Path) -> None:
    def verdict(run_id: str, verdict: str, *uris: str) -> dict[str, Any]:
        return {"run_id": run_id, "verdict": verdict, "query": f"{run_id}?", "cited_uris": list(uris)}

    verdicts = [
        verdict("a", "up", "a.md"),
        verdict("b", "up", "b.md"),
        verdict("b", "down", "b.md"),
        verdict("c", "up"),
    ]
    questions, bad = questions_from_feedback(verdicts)
    assert (questions, bad) == ([{"id": "a", "question": "a?", "uris": ["a.md"]}], 1)
    assert [one.uris for one in read_question_set(a_set(tmp_path, *questions))] == [("a.md",)]
