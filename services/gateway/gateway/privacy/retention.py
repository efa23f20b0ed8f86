"""Retention policies of a tenant: what they are, what one would delete, and changes that further people confirm."""

from typing import get_args

from flotilla.postgres import Connection
from gateway.auth.principal import Principal
from gateway.privacy.requests import add_request
from gateway.schemas.privacy import PrivacyRequest, RetentionBody, RetentionKind, RetentionPlan, RetentionPolicy

KINDS: tuple[RetentionKind, ...] = get_args(RetentionKind)
_SELECT_RETENTION_POLICIES = (
    "SELECT kind, days, changed_at, request_id FROM flotilla.retention_policies WHERE tenant_id = $1"
)
_SELECT_RETENTION_PLAN = "SELECT expired, held FROM flotilla.retention_plan($1, $2, $3)"


async def list_policies(connection: Connection, tenant_id: str) -> list[RetentionPolicy]:
    """Return the policy of each kind, those that keep everything too."""
    found = {row["kind"]: dict(row) for row in await connection.fetch(_SELECT_RETENTION_POLICIES, tenant_id)}
    kept = {"days": None, "changed_at": None, "request_id": None}
    return [RetentionPolicy(**found.get(kind, {"kind": kind, **kept})) for kind in KINDS]


async def plan_policy(connection: Connection, tenant_id: str, kind: RetentionKind, days: int) -> RetentionPlan:
    """Return what a policy of so many days would delete now. Nothing is changed."""
    row = await connection.fetchrow(_SELECT_RETENTION_PLAN, tenant_id, kind, days)
    assert row is not None  # noqa: S101 - it counts
    return RetentionPlan(kind=kind, days=days, **dict(row))


async def request_change(connection: Connection, caller: Principal, body: RetentionBody, needed: int) -> PrivacyRequest:
    """Ask for another policy; it counts once `needed` further people have confirmed it."""
    details = {"kind": body.kind, "days": body.days}
    return await add_request(connection, caller, "retention", needed=needed, reason=body.reason, details=details)
