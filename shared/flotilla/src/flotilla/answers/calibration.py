"""From features to a probability: a logistic combination, made honest by isotonic regression on judged questions.

`answerable_probability` is how likely it is that the documents answer a question at all; below its threshold the
fleet abstains. `right` is how likely an answer is right. Both are fitted by `flotilla eval fit`; what is
shipped was fitted on one half of the sets in `benchmarks/retrieval`, for the built-in model's answers.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from flotilla.contracts.errors import ConfigurationError

FILE = "FLOTILLA_CALIBRATION_FILE"


class LogisticCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A logistic combination of features, and the steps that turn it into a share of cases."""

    features: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float
    scores: tuple[float, ...]
    """Ascending; between two of them the share is interpolated."""
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.weights) or len(self.scores) != len(self.shares) or not self.scores:
            raise ValueError("a curve has a weight for each feature and a share for each score")
        if list(self.scores) != sorted(self.scores) or list(self.shares) != sorted(self.shares):
            raise ValueError("scores and shares of a curve ascend")

    def linear_score(self, features: Mapping[str, float]) -> float | None:
        """Return the combination; None where a feature is missing."""
        if not all(name in features for name in self.features):
            return None
        return self.bias + math.fsum(w * features[n] for n, w in zip(self.features, self.weights, strict=True))

    def calibrated_share(self, features: Mapping[str, float]) -> float | None:
        """Return the share of cases like this one; None where a feature is missing."""
        score = self.linear_score(features)
        return None if score is None else self._at(score)

    def _at(self, score: float) -> float:
        at = bisect_right(self.scores, score)
        if at in (0, len(self.scores)):
            return self.shares[min(at, len(self.scores) - 1)]
        left, right = self.scores[at - 1], self.scores[at]
        return self.shares[at - 1] + (score - left) / (right - left) * (self.shares[at] - self.shares[at - 1])


class CalibrationStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known with one set of features, and the error rates of its threshold."""

    answerable: LogisticCurve
    right: LogisticCurve
    abstain_below: float
    """The least score of `answerable_probability` that gets an answer."""
    refused_answerable: float
    """Of answerable questions in the set it was fitted on, the share that is refused."""
    answered_unanswerable: float
    """Of unanswerable ones, the share that is answered."""
    questions: int


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stages, those with more features first: the first one counts whose features are there."""

    model: str
    """Whose answers it was fitted on."""
    stages: tuple[CalibrationStage, ...]

    def abstains(self, features: Mapping[str, float]) -> bool:
        """Return whether the question is likely not to be answered by what was found."""
        for stage in self.stages:
            if (score := stage.answerable.linear_score(features)) is not None:
                return score < stage.abstain_below
        return False

    def answerable_probability(self, features: Mapping[str, float]) -> float | None:
        """Return how likely the documents answer the question; None where the features do not allow to say."""
        found = (stage.answerable.calibrated_share(features) for stage in self.stages)
        return next((share for share in found if share is not None), None)

    def correctness_probability(self, features: Mapping[str, float]) -> float | None:
        """Return how likely the answer is right; None where the features do not allow to say."""
        found = (stage.right.calibrated_share(features) for stage in self.stages)
        return next((share for share in found if share is not None), None)


@dataclass(frozen=True, slots=True)
class Calibrations:
    """The operator's own calibration, for every model, or what is shipped, for the model it was fitted on."""

    shipped: Calibration
    own: Calibration | None = None

    def of(self, model: str) -> Calibration | None:
        """Return the calibration of a model's answers; None where there is none."""
        return self.own or (self.shipped if model == self.shipped.model else None)


def read_calibrations(path: Path | None) -> Calibrations:
    """Return what is shipped, and the operator's own from `path`.

    Raises:
        ConfigurationError: the file can't be read.
    """
    return Calibrations(shipped_calibration(), _read(path) if path else None)


@cache
def shipped_calibration() -> Calibration:
    """Return the calibration that comes with the library."""
    return decode_calibration((files("flotilla.answers") / "calibration.json").read_bytes())


def decode_calibration(body: bytes) -> Calibration:
    """Return the calibration in a file.

    Raises:
        msgspec.DecodeError: it holds none.
    """
    return msgspec.json.decode(body, type=Calibration)


def _read(path: Path) -> Calibration:
    try:
        return decode_calibration(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(
            f"{FILE} is {path}, which can't be used: {error}; write one with `flotilla eval fit`"
        ) from error
