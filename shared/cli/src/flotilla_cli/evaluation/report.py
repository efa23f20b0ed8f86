"""A report as a document, compared with an earlier one, and held against what is required."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flotilla_cli.errors import Misuse
from flotilla_cli.evaluation.figures import QuestionOutcome, compute_figures, reliability_bins

_REQUIREMENT = re.compile(r"([a-z0-9_@]{1,40})(<=|>=)([0-9.]{1,20})")


@dataclass(frozen=True)
class FigureRequirement:
    """`recall@5>=0.9`."""

    name: str
    at_least: bool
    value: float

    def why_not_met(self, figures: Mapping[str, float]) -> str | None:
        """Why it is not kept; None when it is.

        Raises:
            Misuse: there is no such figure.
        """
        if self.name not in figures:
            raise Misuse(f"there is no figure {self.name}", f"there are: {', '.join(figures)}; answers need --answers")
        found = figures[self.name]
        kept = found >= self.value if self.at_least else found <= self.value
        sign = ">=" if self.at_least else "<="
        return None if kept else f"{self.name} is {found:g}, required is {sign} {self.value:g}"


def parse_requirement(text: str) -> FigureRequirement:
    """Read `NAME>=VALUE` or `NAME<=VALUE`.

    Raises:
        Misuse: it is neither.
    """
    found = _REQUIREMENT.fullmatch(text.replace(" ", ""))
    try:
        if found:
            return FigureRequirement(found[1], found[2] == ">=", float(found[3]))
    except ValueError:
        pass
    raise Misuse(f"{text!r} is not a requirement", 'write it like "recall@5>=0.9" or "false_abstention<=0.05"')


def evaluation_report(outcomes: Sequence[QuestionOutcome], depth: int) -> dict[str, Any]:
    """All of it as JSON."""
    return {
        "questions": len(outcomes),
        "depth": depth,
        "figures": compute_figures(outcomes, depth),
        "reliability": reliability_bins(outcomes),
        "outcomes": [{**asdict(one), "first": one.first_expected_rank} for one in outcomes],
    }


def read_report(path: Path) -> dict[str, Any]:
    """An earlier report.

    Raises:
        Misuse: the file holds none.
    """
    try:
        report = json.loads(path.read_bytes())
        if isinstance(report["figures"], dict) and all(one["id"] for one in report["outcomes"]):
            return dict(report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Misuse(f"{path} holds no report: {error}", "save one: flotilla eval run SET -o json > FILE") from error
    raise Misuse(f"{path} holds no report", "save one: flotilla eval run SET -o json > FILE")


def changed_outcomes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The questions whose outcome is another one than before, those that are new, and those that are gone."""
    earlier = {one["id"]: one for one in before["outcomes"]}
    later = {one["id"]: one for one in now["outcomes"]}
    return [
        {"id": name, "question": (later.get(name) or earlier[name])["question"],
         "before": _standing(earlier.get(name)), "now": _standing(later.get(name))}
        for name in _in_order(later, earlier)
        if _standing(earlier.get(name)) != _standing(later.get(name))
    ]  # fmt: skip


def _in_order(later: Iterable[str], earlier: Iterable[str]) -> list[str]:
    return list(dict.fromkeys((*later, *earlier)))


def _standing(outcome: Mapping[str, Any] | None) -> str:
    """`rank 2, right`, in words."""
    if outcome is None:
        return "not asked"
    first = outcome.get("first")
    rank = f"rank {first}" if first else "not found" if outcome.get("answerable") else "unanswerable"
    answer = outcome.get("answer")
    if not answer:
        return rank
    return f"{rank}, {'right' if answer['right'] else 'abstained' if not answer['cites'] else 'not right'}"
