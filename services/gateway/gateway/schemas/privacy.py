"""Erasure and export of people's data, legal holds, and what is asked for and confirmed."""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, StringConstraints

from flotilla.approvals.policy import PrivacyKind
from flotilla.contracts.identity import LOCAL_ISSUER
from gateway.schemas.common import WRITTEN, Answer, Reason, RequestBody

RetentionKind: TypeAlias = Literal["sessions", "runs", "model_calls", "documents", "dead_letters", "mcp_calls"]
PersonName = Annotated[str, StringConstraints(min_length=1, max_length=256), WRITTEN]


class PersonBody(RequestBody):
    """A person, and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"subject": "ada", "reason": "request 2031-17"}]})

    subject: PersonName
    issuer: PersonName = LOCAL_ISSUER
    """Who says that it is that person: the OpenID provider's address, or `flotilla` for API keys."""
    reason: Reason
    """It is kept, and shown: write no personal data into it."""


class ErasurePlan(Answer):
    """What an erasure would reach."""

    person: str
    encrypted_sessions: int
    """Their text becomes `[erased]`."""
    clear_sessions: int
    """Sessions from before encryption was on: their text stays."""
    open_runs: int
    """They end."""
    other_open_work: int
    """Open tasks, actions and orders: they end, too."""
    schedules: int
    """They are deleted."""
    held_for: str | None
    """Why it would be refused: the reason of a legal hold."""


class Erasure(Answer):
    """A request to erase a person, and how far it is."""

    erasure_id: str
    person: str
    reason: str
    requested_by: str
    requested_at: datetime
    confirmations_needed: int
    """How many further people have to confirm it: the policy's number when it was asked for."""
    confirmed_by: str | None
    """The last of them. The key is destroyed with the last confirmation."""
    confirmed_at: datetime | None
    finished_at: datetime | None
    """When nothing of the person was open, and each session had recorded it."""


class ErasureList(Answer):
    """Erasures, newest first."""

    erasures: list[Erasure]


class PrivacyRequest(Answer):
    """What somebody asked for, and who confirmed it."""

    request_id: str
    """Of an erasure its `erasure_id`."""
    kind: PrivacyKind
    person: str | None
    """Whom it is about; of a change of retention nobody."""
    details: dict[str, Any]
    """Of a change of retention the kind and its days."""
    reason: str
    requested_by: str
    requested_at: datetime
    confirmations_needed: int
    confirmations: list[str]
    """The people who confirmed it, in their order."""
    confirmed_at: datetime | None
    """When the last confirmation came: an export can be fetched from then on, the others are done."""
    finished_at: datetime | None
    """Of an erasure when no run was left, and each session had recorded it."""


class PrivacyRequestList(Answer):
    """Erasures, exports and changes of retention, newest first."""

    requests: list[PrivacyRequest]


class RetentionBody(RequestBody):
    """For how long what is over is kept, and why."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"kind": "sessions", "days": 365, "reason": "data policy of 2031"}]}
    )

    kind: RetentionKind
    days: Annotated[int, Field(ge=1, le=36_500)] | None
    """Null keeps it for good."""
    reason: Reason


class RetentionPolicy(Answer):
    """For how long the tenant keeps what is over of a kind."""

    kind: RetentionKind
    days: int | None
    """Null: for good; calls of MCP clients then for 7 days."""
    changed_at: datetime | None
    request_id: str | None
    """The request that changed it."""


class RetentionPolicyList(Answer):
    """One for each kind."""

    policies: list[RetentionPolicy]


class RetentionPlan(Answer):
    """What a policy would delete now."""

    kind: RetentionKind
    days: int
    expired: int
    """They would be deleted; of sessions the keys would be destroyed."""
    held: int
    """They are as old, and stay for a legal hold."""


class LegalHold(Answer):
    """Why a person's data must be kept."""

    person: str
    reason: str
    added_by: str
    added_at: datetime


class LegalHoldList(Answer):
    """All legal holds of the tenant."""

    holds: list[LegalHold] = Field(description="The newest first.")
