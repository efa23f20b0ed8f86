"""The audit consumer's settings."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from audit_consumer.witnesses import parse_witnesses
from flotilla.audit.notes import is_valid_origin
from flotilla.config import KafkaSettings, OperatorSettings, PostgresSettings, ServiceSettings
from flotilla.config.settings import Words
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import AUDIT_GROUP, AUDIT_LOG_ORIGIN


class Settings(ServiceSettings, PostgresSettings, KafkaSettings, OperatorSettings):
    """The audit consumer's settings. It connects to PostgreSQL as `flotilla_audit`."""

    postgres_idle_in_transaction_s: int = Field(default=10, ge=1)
    """As for all; a shorter time, since the next owner of its partitions waits for its rows."""
    audit_signing_key_file: Path
    """Ed25519 private key in PEM (PKCS 8) that signs the checkpoints."""
    audit_log_origin: str = AUDIT_LOG_ORIGIN
    """The name of the fleet's log in its tree's checkpoints, as a host and path that you own, for example
    `flotilla.example.com/audit`; partition 3 is `flotilla.example.com/audit/3`. Set it before witnesses know it."""
    audit_witnesses: Words = ()
    """Who cosigns the checkpoints of the log's trees, by https://c2sp.org/tlog-witness: `https://witness.example.org#NAME+ID+KEY`,
    comma-separated."""
    audit_witness_quorum: int | None = Field(default=None, ge=1)
    """Of that many witnesses a checkpoint needs the signature; unset: of all."""
    audit_witness_interval_s: float = Field(default=60.0, gt=0)
    """Witnesses are asked this often."""
    audit_witness_timeout_s: float = Field(default=10.0, gt=0)
    """A witness or time-stamp authority that takes longer to answer is asked again in the next round."""
    audit_stamp_url: str | None = None
    """A time-stamp authority (RFC 3161) that stamps checkpoints of the log's trees, http or https."""
    audit_stamp_interval_s: float = Field(default=3600.0, gt=0)
    """Trees that grew are stamped this often."""
    audit_group: str = AUDIT_GROUP
    audit_accept_new_log: str | None = None
    """A topic whose log was lost for good and begins again: it may have no record in common with the projection."""
    audit_batch_events: int = Field(default=5000, ge=1)
    """Most events of one transaction."""
    checkpoint_interval_s: float = Field(default=10.0, gt=0)
    """Changed heads are anchored this often."""
    stuck_after_s: float = Field(default=60.0, gt=0)
    """Not alive once there is work and both servers answer, yet nothing moves for this long."""
    kafka_session_timeout_ms: int = Field(default=10_000, ge=1000)
    """After this long without a heartbeat another consumer takes this one's partitions."""

    @field_validator("audit_log_origin")
    @classmethod
    def _check_origin(cls, origin: str) -> str:
        if not is_valid_origin(f"{origin}/00"):
            raise ValueError(
                "it has to be printable ASCII without spaces and plus signs, as flotilla.example.com/audit"
            )
        return origin

    @field_validator("audit_stamp_url")
    @classmethod
    def _check_stamp_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("https://", "http://")):
            raise ValueError("it has to begin with https:// or http://")
        return url

    @model_validator(mode="after")
    def _check_witnesses(self) -> Self:
        try:
            known = len(parse_witnesses(self.audit_witnesses))
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        if (self.audit_witness_quorum or 0) > known:
            raise ValueError(f"FLOTILLA_AUDIT_WITNESS_QUORUM is {self.audit_witness_quorum}, of {known} witnesses")
        if known and self.audit_log_origin == AUDIT_LOG_ORIGIN:
            raise ValueError(
                "FLOTILLA_AUDIT_WITNESSES needs FLOTILLA_AUDIT_LOG_ORIGIN: witnesses know a log by its name"
            )
        return self
