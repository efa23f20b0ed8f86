"""How sure an answer is, by what is known of it."""

from collections.abc import Mapping, Sequence

from flotilla.answers.calibration import Calibration
from flotilla.contracts.session_events import Source
from flotilla.llm import UNSUPPORTED_LIMIT, Completion, Confidence, compute_confidence


def confidence_of_answer(
    completion: Completion,
    cited: Sequence[Source],
    features: Mapping[str, float],
    supported: float,
    calibration: Calibration | None,
) -> Confidence:
    """Return the calibrated confidence where there is a calibration for these features, else that of
    `compute_confidence`. `supported` is the share of sentences that their sources support; without one the confidence
    is lower in any case.
    """
    plain = compute_confidence(completion, cited)
    calibrated = calibration.correctness_probability(features) if calibration else None
    if calibration is None or calibrated is None:
        return Confidence(round(plain.value * supported, 4), plain.basis)
    if_supported = calibration.correctness_probability({**features, "support": 1.0}) or calibrated
    value = min(calibrated, if_supported * supported)
    return Confidence(round(value if cited else min(value, UNSUPPORTED_LIMIT), 4), "calibrated")
