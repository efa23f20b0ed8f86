"""What the sampler remembers."""

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

STEP_S = 15
SAMPLES = 240


@dataclass(frozen=True, slots=True)
class Sample:
    """The whole fleet at one moment; None is unknown."""

    at: float
    """Seconds since 1970."""
    stream_lag: int | None
    stream_pending: int | None
    outbox_backlog: int | None
    audit_lag: int | None


Samples: TypeAlias = deque[Sample]


def no_samples() -> Samples:
    """Room for an hour."""
    return deque(maxlen=SAMPLES)
