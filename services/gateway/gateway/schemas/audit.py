"""Proof that nobody changed the history."""

from datetime import datetime

from pydantic import ConfigDict

from flotilla.eventstore.audit_requests import ParkedSession
from gateway.schemas.common import Answer, Reason, RequestBody


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


class DiscardBody(RequestBody):
    """Why; it is kept with the events that are set aside."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "doubled by a restore of last night"}]})

    reason: Reason
