"""A circuit breaker: a model that keeps failing is left alone for a while, then tried by one call."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from flotilla.llm.model import ModelUnavailable

FAILURES = 5
"""In a row, until the circuit opens."""
OPEN_S = 30.0
LONGEST_OPEN_S = 300.0


@dataclass(frozen=True, slots=True)
class AdmittedCall:
    """A call that was let through."""

    is_trial: bool
    """It tries the model after the circuit was open."""


class CircuitBreaker:
    """Of one model in one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0
        self._is_tried = False

    @property
    def retry_in_s(self) -> float:
        """How long the model is left alone, in seconds; 0 where it may be asked."""
        return max(0.0, self._open_until - self._clock())

    def admit_call(self) -> AdmittedCall | None:
        """Let a call ask the model, if it may be asked now. After the circuit was open, one call tries it first."""
        if self.retry_in_s > 0 or self._is_tried:
            return None
        self._is_tried = self._open_until > 0
        return AdmittedCall(self._is_tried)

    def record_success(self) -> None:
        """The model answered, or refused: it is there."""
        self._failures, self._open_until, self._is_tried = 0, 0.0, False

    def record_failure(self, call: AdmittedCall, error: ModelUnavailable) -> None:
        """It did not. An endpoint that names a time is left alone for that long at once."""
        self._failures += 1
        if error.retry_after_s or self._failures >= FAILURES or call.is_trial:
            self._open_until = self._clock() + min(error.retry_after_s or OPEN_S, LONGEST_OPEN_S)
        self.record_abandoned(call)

    def record_abandoned(self, call: AdmittedCall) -> None:
        """The call ended without showing whether the model is there: it was cancelled, or had no turn in its queue."""
        if call.is_trial:
            self._is_tried = False
