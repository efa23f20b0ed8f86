"""Erasure of people's data, and legal holds against it."""

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from flotilla.contracts.identity import LOCAL_ISSUER
from gateway.schemas.common import WRITTEN, Answer, Reason, RequestBody

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
    held_for: str | None
    """Why it would be refused: the reason of a legal hold."""


class Erasure(Answer):
    """A request to erase a person, and how far it is."""

    erasure_id: str
    person: str
    reason: str
    requested_by: str
    requested_at: datetime
    confirmed_by: str | None
    """A second person. The key is destroyed with the confirmation."""
    confirmed_at: datetime | None
    finished_at: datetime | None
    """When no run was left, and each session had recorded it."""


class ErasureList(Answer):
    """Erasures, newest first."""

    erasures: list[Erasure]


class LegalHold(Answer):
    """Why a person's data must be kept."""

    person: str
    reason: str
    added_by: str
    added_at: datetime


class LegalHoldList(Answer):
    """All legal holds of the tenant."""

    holds: list[LegalHold] = Field(description="The newest first.")
