"""When a schedule fires."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

Overlap: TypeAlias = Literal["skip", "buffer_one", "allow"]
"""What happens to a start while the run before it is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """By `cron` or every `interval_s`; times of `cron` are those of `time_zone` (an IANA name)."""

    cron: list[str] = field(default_factory=list)
    interval_s: float | None = None
    time_zone: str = "UTC"
    jitter_s: float = 0.0
    """Each start is put off by a random time of so many seconds at most."""
    overlap: Overlap = "skip"
    catch_up_s: float = 60.0
    """Starts that were missed because Temporal was away are made up for if they are no older."""
    start_at: datetime | None = None
    end_at: datetime | None = None
