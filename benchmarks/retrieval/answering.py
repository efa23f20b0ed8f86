"""The built-in model's answers to a set: which are right, which are declined, and how sure they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.retrieval.judged import Question, with_interval
from benchmarks.retrieval.manuals import MANUALS
from flotilla.answers.calibration import Calibration
from flotilla.answers.features import features_of_search
from flotilla.answers.fitting import Case
from flotilla.answers.words import analysis_for_passages
from flotilla.contracts.tasks import Passage
from flotilla.knowledge import KnowledgeBase
from flotilla.llm.extractive import NOTHING_FOUND, compose_answer
from flotilla_cli.evaluation.figures import AnsweredQuestion, QuestionOutcome, compute_figures, reliability_bins

TOP_K = 5
"""As many passages as a run asks for."""


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer that was written whether the question would have been declined or not."""

    question: Question
    features: dict[str, float]
    text: str
    cited: tuple[Passage, ...]

    @property
    def is_right(self) -> bool:
        """Whether it cites a page that answers the question."""
        return any(one.source.uri in self.question.pages for one in self.cited)

    @property
    def case(self) -> Case:
        """What a calibration is fitted to."""
        return Case({**self.features, "support": 1.0}, self.question.answerable, self.is_right)


Answered = dict[str, list[JudgedAnswer]]


async def answer_all(knowledge: KnowledgeBase, name: str, questions: Sequence[Question]) -> list[JudgedAnswer]:
    """The answers to all questions."""
    answers = []
    for question in questions:
        searched = question.searched(MANUALS[name].language)
        passages = await knowledge.search(name, searched, TOP_K)
        text = compose_answer(searched, passages, analysis_for_passages(passages)) if passages else NOTHING_FOUND
        cited = tuple(one for number, one in enumerate(passages, 1) if f"[{number}]" in text)
        answers.append(JudgedAnswer(question, features_of_search(searched, passages), text, cited))
    return answers


def print_answers(label: str, answers: Sequence[JudgedAnswer], calibration: Calibration) -> None:
    """Abstention, and confidence beside the best constant."""
    outcomes = [_outcome(number, one, calibration) for number, one in enumerate(answers)]
    findable = [one for one in outcomes if one.answerable]
    others = [one for one in outcomes if not one.answerable]
    figures = compute_figures(outcomes, TOP_K)
    refused = with_interval([not one.answer.cites for one in findable if one.answer])
    declined = with_interval([not one.answer.cites for one in others if one.answer])
    right = with_interval([one.answer.right for one in findable if one.answer])
    print(f"  {label:<16} refuses answerable {refused}, declines unanswerable {declined}, right {right}")
    undecided = [(_confidence(one, calibration), one.is_right) for one in answers]
    brier = fmean((confidence - is_right) ** 2 for confidence, is_right in undecided)
    share = fmean(is_right for _, is_right in undecided)
    print(
        f"  {'':<16} without declining: Brier {brier:.3f}, best constant {share * (1 - share):.3f}; with: "
        f"Brier {figures['brier']:.3f}, best constant {figures['brier_of_best_constant']:.3f}, ECE {figures['ece']:.3f}"
    )
    for row in reliability_bins(outcomes):
        print(f"  {'':<16} confidence {row['confidence']:.2f}: right {row['right']:.2f} of {row['answers']}")


def _confidence(one: JudgedAnswer, calibration: Calibration) -> float:
    return (calibration.correctness_probability(one.case.features) or 0.0) if one.cited else 0.0


def _outcome(number: int, one: JudgedAnswer, calibration: Calibration) -> QuestionOutcome:
    declined = not one.cited or calibration.abstains(one.features)
    confidence = 0.0 if declined else _confidence(one, calibration)
    asked = AnsweredQuestion("success", not declined, one.is_right and not declined, confidence, 0.0, 0)
    return QuestionOutcome(
        str(number), one.question.text, one.question.answerable, int(one.question.answerable), answer=asked
    )
