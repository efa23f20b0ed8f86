"""What the sampler remembers."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

STEP_S = 15
SAMPLES = 240


@dataclass(frozen=True, slots=True)
class FleetSample:
    """The whole fleet at one moment; None is unknown."""

    at: float
    """Seconds since 1970."""
    stream_lag: int | None
    stream_pending: int | None
    outbox_backlog: int | None
    audit_lag: int | None


Samples: TypeAlias = deque[FleetSample]


def samples_of_last_hour(samples: Sequence[FleetSample], now: float) -> list[FleetSample]:
    """The moments of the last hour. What was before the first sample is unknown."""
    first = samples[0].at if samples else now
    earlier = [first - STEP_S * step for step in range(SAMPLES - len(samples), 0, -1)]
    return [*(FleetSample(at, None, None, None, None) for at in earlier), *samples]


def empty_sample_buffer() -> Samples:
    """Room for an hour."""
    return deque(maxlen=SAMPLES)
