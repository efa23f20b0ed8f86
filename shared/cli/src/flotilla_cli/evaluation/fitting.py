"""A calibration from the answers of a report."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from flotilla.answers.calibration import Calibration
from flotilla.answers.fitting import Case, TooFewCases, fit
from flotilla_cli.errors import Misuse

NO_MODEL = "none"
"""Of answers that no model wrote, as where the fleet abstains."""


def fit_calibration_to_report(report: Mapping[str, Any], *, refused: float) -> Calibration:
    """Return the calibration of a report's answers; `refused` is the share of answerable questions that may be refused.

    Raises:
        Misuse: there are too few answers in it, or they have no features.
    """
    answered = [one for one in report["outcomes"] if one.get("answer")]
    cases = [
        Case(
            {name: float(value) for name, value in (one["answer"].get("features") or {}).items()},
            answerable=bool(one["answerable"]),
            right=bool(one["answer"]["right"]),
        )
        for one in answered
    ]
    models = Counter(one["answer"].get("model") or NO_MODEL for one in answered)
    del models[NO_MODEL]
    try:
        return fit(cases, model=models.most_common(1)[0][0] if models else NO_MODEL, refused=refused)
    except TooFewCases as error:
        raise Misuse(
            f"nothing can be fitted: {error}",
            "flotilla eval run SET --answers -o json > FILE, with FLOTILLA_WRITER_ABSTAIN=false at the writer",
        ) from error


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write it where the writer reads it.

    Raises:
        Misuse: the file can't be written.
    """
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(calibration)) + b"\n")
    except OSError as error:
        raise Misuse(f"{path} can't be written: {error}", "name another file with --to") from error
