"""Proof that nobody changed the history."""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from fastapi import Path
from pydantic import ConfigDict, Field, StringConstraints

from flotilla.audit.archives import MAX_SESSIONS_PER_ARCHIVE_REQUEST, ArchivableSession, ArchivedSession
from flotilla.audit.requests import AuditParkedSession, AuditRequest
from gateway.schemas.common import Answer, Id, Reason, RequestBody

_NAME = r"^([A-Za-z0-9][A-Za-z0-9._:-]{0,127}/)?([A-Za-z0-9][A-Za-z0-9._:-]{0,127}|-)$"
ParkedId: TypeAlias = Annotated[
    str,
    Path(
        pattern=r"^(-|[A-Za-z0-9][A-Za-z0-9._:-]{0,127})$",
        description="The session's id; `-` for records that belong to no session.",
    ),
]


class Checkpoint(Answer):
    """A signed statement of where a partition stood and which heads had changed."""

    partition: int
    number: int
    """From 1 per partition; a number is left out where its checkpoint was abandoned, and never used again."""
    epoch: int
    """Goes up where checkpoints were abandoned, or people decided for another history."""
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


class LogStamp(Answer):
    """A time-stamp of a partition's signed checkpoint."""

    size: int
    checkpoint: str
    """What was stamped, character for character."""
    response: str
    """The authority's answer (RFC 3161, DER), base64."""
    stamped_at: datetime
    """The time that the authority names."""


class ParkedList(Answer):
    """Sessions whose events wait, longest first."""

    parked: list[AuditParkedSession]


class AuditRequestList(Answer):
    """Requests to the audit consumer, newest first."""

    requests: list[AuditRequest]


class ReasonBody(RequestBody):
    """Why; it is kept with what is done."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "doubled by a restore of last night"}]})

    reason: Reason


class AllParkedBody(RequestBody):
    """Which parked sessions, and why."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"parked_for": "conflict", "reason": "failover without the last second"}]}
    )

    parked_for: Literal["conflict", "gap", "unknown_type", "ahead"]
    """What blocks them, as the list of parked sessions shows it."""
    partition: Annotated[int, Field(ge=0)] | None = None
    """Of Kafka's topic of events; all by default."""
    tenant_id: Id | None = None
    """Another tenant, for the operator's."""
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


class ArchivableList(Answer):
    """Sessions that may be archived, by id."""

    sessions: list[ArchivableSession]


class ArchiveList(Answer):
    """What was archived, newest first."""

    archives: list[ArchivedSession]
    next_cursor: str | None


class SessionInFile(RequestBody):
    """A session whose whole history is in an archive's file."""

    session_id: Id
    seq: Annotated[int, Field(ge=1, le=2**53)]
    """Its newest event in the file."""


class ArchiveBody(RequestBody):
    """A file that holds the exports of sessions, checked by who wrote it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "file": "/archive/acme/2031-02-17-0001.jsonl.gz",
                    "file_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                    "sessions": [{"session_id": "s1", "seq": 42}],
                }
            ]
        }
    )

    file: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    """Where it is, for people."""
    file_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    sessions: Annotated[list[SessionInFile], Field(min_length=1, max_length=MAX_SESSIONS_PER_ARCHIVE_REQUEST)]


class ReturnedEvent(RequestBody):
    """An event of an archived session."""

    seq: Annotated[int, Field(ge=1, le=2**53)]
    body: str
    """Its document, character for character as the archive has it."""


class ReturnedEventsBody(RequestBody):
    """Events of an archived session, on their way back."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"events": [{"seq": 1, "body": "{}"}]}]})

    events: Annotated[list[ReturnedEvent], Field(min_length=1, max_length=1000)]
