"""Proof that nobody changed the history."""

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from flotilla.eventstore.audit_requests import AuditRequest, ParkedSession
from gateway.schemas.common import Answer, Reason, RequestBody

_NAME = r"^([A-Za-z0-9][A-Za-z0-9._:-]{0,127}/)?([A-Za-z0-9][A-Za-z0-9._:-]{0,127}|-)$"


class Checkpoint(Answer):
    """A signed statement of where a partition stood and which heads had changed."""

    partition: int
    number: int
    """From 1, without gaps, per partition."""
    offset: int
    """All records below it were projected."""
    heads: int
    merkle_root: str
    statement: str
    """What is signed, character for character."""
    signature: str
    """Ed25519, base64."""
    key_id: str
    created_at: datetime
    published_at: datetime | None
    """When its copy reached Kafka."""


class CheckpointList(Answer):
    """A page of checkpoints, newest first."""

    checkpoints: list[Checkpoint]
    next_cursor: str | None


class ParkedList(Answer):
    """Sessions whose events wait, longest first."""

    parked: list[ParkedSession]


class AuditRequestList(Answer):
    """Requests to the audit consumer, newest first."""

    requests: list[AuditRequest]


class ReasonBody(RequestBody):
    """Why; it is kept with what is done."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "doubled by a restore of last night"}]})

    reason: Reason


class RebuildBody(RequestBody):
    """Which sessions may lose what Kafka no longer has, and why."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"accept_loss": ["s1", "acme/s7"], "reason": "two disks failed, no backup"}]}
    )

    accept_loss: list[Annotated[str, StringConstraints(pattern=_NAME)]] = Field(default_factory=list, max_length=10_000)
    """`SESSION`, or `TENANT/SESSION`, as the refused rebuild named them."""
    reason: Reason | None = None
    """Required with `accept_loss`."""
