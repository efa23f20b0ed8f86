"""Records of the permanent log, for code that does not talk to Kafka itself."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One record of the permanent log."""

    offset: int
    seq: int
    body: bytes
