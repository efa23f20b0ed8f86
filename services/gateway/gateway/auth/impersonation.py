"""Refused attempts to act as somebody else: counted, logged, and recorded in the tenant's audit session."""

from typing import Literal, TypeAlias, get_args

import asyncpg
import structlog
from starlette.requests import Request

from flotilla.audit import admin_log as tenant_audit
from flotilla.contracts.errors import FlotillaError, Forbidden
from flotilla.contracts.identity import MAX_LENGTH
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import is_valid_id, join_id_parts
from flotilla.postgres import AWAY, Pool, acting_as, tenant_transaction
from flotilla.postgres.viewer import ITSELF
from flotilla.telemetry.metrics import IMPERSONATIONS_REFUSED
from gateway.auth.principal import Principal
from gateway.limits import RequestRateLimiter
from gateway.names import SOURCE
from gateway.problems import TooMany

Kind: TypeAlias = Literal["vote", "operation", "no_right", "service", "key", "signer"]
"""What was refused: a vote, or another operation, on behalf of somebody; acting for others without the right to; acting
for a service; an API key, or a key that signs votes, in somebody else's name."""
VOTE_ROUTE = "/v1/approvals/{approval_id}/decision"
EVENTS_PER_MINUTE = 6
EVENTS_AT_ONCE = 10
"""Of one key at each replica: the audit session is not the caller's to fill. Logs and metric have every attempt."""
log = structlog.get_logger(__name__)


class Impersonation(Forbidden):
    """`caller` may not act as `subject`."""

    def __init__(self, kind: Kind, caller: Principal, subject: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind
        self.caller = caller
        self.subject = subject


class RefusedImpersonationLog:
    """Leaves a trace of each refused attempt."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._events = RequestRateLimiter(EVENTS_PER_MINUTE / 60, EVENTS_AT_ONCE)
        for kind in get_args(Kind):
            IMPERSONATIONS_REFUSED.labels(kind)  # at 0 from the start, so that the first one shows

    async def record_refusal(self, request: Request, attempt: Impersonation) -> None:
        """Count and log the attempt, and add it to the tenant's audit session; it stays refused if that fails."""
        details = _details(request, attempt)
        IMPERSONATIONS_REFUSED.labels(attempt.kind).inc()
        log.warning("impersonation_refused", tenant=attempt.caller.tenant_id, **details)
        try:
            await self._add_event(attempt.caller, details)
        except (*AWAY, TimeoutError, asyncpg.PostgresError, FlotillaError) as error:
            log.warning("impersonation_not_recorded", reason=str(error) or type(error).__name__)

    async def _add_event(self, caller: Principal, details: JsonObject) -> None:
        if caller.key_id is None:  # the audit session is about keys
            return
        try:
            self._events.take(join_id_parts(caller.tenant_id, caller.key_id))
        except TooMany:
            return
        with acting_as(ITSELF):
            async with tenant_transaction(self._pool, caller.tenant_id) as connection:
                await tenant_audit.record_admin_changes(
                    connection, caller.tenant_id, SOURCE, ("api_key_refused", details)
                )


def _details(request: Request, attempt: Impersonation) -> JsonObject:
    caller = attempt.caller
    return {
        "refused": attempt.kind,
        "by": caller.acted_by or caller.subject,
        "key_id": caller.key_id,
        "subject": attempt.subject[:MAX_LENGTH],
        "operation": f"{request.method} {request.scope['route'].path}",
        "of": {name: value for name, value in request.path_params.items() if is_valid_id(str(value))},
    }
