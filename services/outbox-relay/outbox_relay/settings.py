"""The relay's settings."""

from typing import Literal

from pydantic import Field

from flotilla.config import KafkaSettings, PostgresSettings, ServiceSettings


class Settings(ServiceSettings, PostgresSettings, KafkaSettings):
    """`FLOTILLA_POSTGRES_DSN` belongs to role flotilla_relay here."""

    relay_max_rows: int = Field(default=5000, ge=1, le=50_000)
    """The most outbox rows that one read takes."""
    relay_max_bytes: int = Field(default=8_000_000, ge=1_000_000)
    """The most bytes that one read takes; the relay's memory is a small multiple of it."""
    relay_busy_poll_s: float = Field(default=0.005, gt=0, le=1)
    """Seconds from one read to the next while rows come; the time that the rows take counts."""
    relay_idle_poll_s: float = Field(default=0.05, gt=0, le=1)
    """Seconds from one read to the next after a while without rows."""
    relay_send_timeout_s: float = Field(default=20.0, gt=0)
    """Seconds without an acknowledgement from Kafka after which the relay connects to it again."""
    relay_compression: Literal["none", "lz4", "zstd"] = "none"
    """How batches of events are compressed, on the wire and for as long as Kafka keeps them."""
