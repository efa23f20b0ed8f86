"""Sets of questions from what people said of answers."""

from collections.abc import Iterable, Mapping
from typing import Any


def questions_from_feedback(verdicts: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return the questions of good answers, each once, and the number of verdicts on bad ones. A run that anybody found
    bad is not good."""
    good: dict[str, dict[str, Any]] = {}
    bad: set[str] = set()
    verdicts_on_bad = 0
    for one in verdicts:
        if one["verdict"] == "down":
            verdicts_on_bad += 1
            bad.add(one["run_id"])
        elif one["cited_uris"]:
            good[one["run_id"]] = {"id": one["run_id"], "question": one["query"], "uris": one["cited_uris"]}
    return [question for run_id, question in good.items() if run_id not in bad], verdicts_on_bad
