"""The relay's settings."""

from typing import Literal

from pydantic import Field

from flotilla.config import KafkaSettings, PostgresSettings, ServiceSettings


class Settings(ServiceSettings, PostgresSettings, KafkaSettings):
    """`FLOTILLA_POSTGRES_DSN` belongs to role flotilla_relay here."""

    relay_max_rows: int = Field(default=5000, ge=1, le=50_000)
    """Rows per read."""
    relay_max_bytes: int = Field(default=8_000_000, ge=1_000_000)
    """Bytes per read; the relay's memory is a small multiple of it."""
    relay_busy_poll_s: float = Field(default=0.005, gt=0, le=1)
    """From one read to the next while rows come, what the first leads to included."""
    relay_idle_poll_s: float = Field(default=0.05, gt=0, le=1)
    """Pause between reads after a while without rows."""
    relay_send_timeout_s: float = Field(default=20.0, gt=0)
    """Without Kafka's acknowledgement for so long the producer is rebuilt."""
    relay_compression: Literal["none", "lz4", "zstd"] = "none"
    """How batches are compressed, on the wire and for as long as Kafka keeps them."""
