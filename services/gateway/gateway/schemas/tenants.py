"""Tenants of the fleet."""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from fastapi import Path
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from gateway.schemas.access import IdentityText
from gateway.schemas.common import STORABLE, WRITTEN, Answer, Id, Reason, RequestBody
from gateway.schemas.keys import NewKey, composed

TenantState: TypeAlias = Literal["active", "suspended", "deleting", "deleted"]
TenantId: TypeAlias = Annotated[str, Path(min_length=1, max_length=256, description="The tenant's name."), WRITTEN]


class TenantBody(RequestBody):
    """A new tenant, with the person who administers it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tenant_id": "initech", "admin": "peter"}]})

    tenant_id: Id
    admin: Annotated[IdentityText, StringConstraints(max_length=200), AfterValidator(composed)]
    """A person, who gets a key with the role admin."""
    note: Annotated[str, StringConstraints(max_length=2000), STORABLE] = ""
    """For operators: who it is, and who pays."""


class Suspension(RequestBody):
    """Why a tenant is suspended, and what happens to its runs."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "contract 4711 has ended"}]})

    reason: Reason
    """Kept, and shown to operators; the tenant's callers do not see it."""
    finish_runs: bool = False
    """Runs under way go on to their end; what is queued waits. Without it they wait at their next step."""


class DeletionBody(RequestBody):
    """Why a tenant is to be deleted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "contract 4711 has ended"}]})

    reason: Reason
    """Kept after the deletion."""


class Tenant(Answer):
    """A tenant. One that nobody created here, since its people come from an OpenID provider, has no `created_by`."""

    tenant_id: str
    state: TenantState
    note: str
    created_by: str | None
    created_at: datetime | None
    suspended_by: str | None
    suspended_at: datetime | None
    suspended_for: str | None
    """Why."""
    finishes_runs: bool
    """Whether runs under way go on while the tenant is suspended."""
    imported_from: str | None
    """The export of another fleet that it came with."""
    deletion_asked_by: str | None
    deletion_asked_at: datetime | None
    deletion_reason: str | None
    deletion_confirmed_by: str | None
    """A second person. The keys are destroyed with the confirmation."""
    deletion_confirmed_at: datetime | None
    deleted_at: datetime | None
    """When no row was left."""


class TenantDetails(Tenant):
    """A tenant, and how much of it there is."""

    sessions: int
    people: int
    active_keys: int
    open_runs: int
    """Under way: a suspended tenant's go as far as their next step."""
    queued_runs: int
    unpublished_events: int
    """Committed, and not yet in Kafka."""


class NewTenant(Tenant):
    """A tenant that was just created."""

    admin_key: NewKey
    """Its secret is in this answer and nowhere else."""


class TenantList(Answer):
    """Tenants, by name."""

    tenants: list[Tenant]
    next_cursor: str | None = Field(description="Where the next page begins; null on the last one.")
