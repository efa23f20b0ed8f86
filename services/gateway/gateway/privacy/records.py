"""The rows of erasures and legal holds, and their events in the tenant's audit session."""

from flotilla.contracts.errors import Conflict, NotFound, no_such
from flotilla.contracts.identity import user_name
from flotilla.contracts.ids import new_id
from flotilla.postgres import Connection
from gateway.auth.principal import Principal
from gateway.privacy.requests import check_not_held, confirm_request, record
from gateway.schemas.privacy import Erasure, ErasurePlan, LegalHold, PersonBody

_SELECT_ERASURE_PLAN = "SELECT * FROM flotilla.erasure_plan($1, $2)"
_SELECT_ERASURES = """
SELECT erasure_id, person, reason, requested_by, requested_at, confirmations_needed, confirmed_by, confirmed_at,
    finished_at
FROM flotilla.erasures WHERE tenant_id = $1
"""
_GET = f"{_SELECT_ERASURES} AND erasure_id = $2"
_LIST = f"{_SELECT_ERASURES} ORDER BY requested_at DESC, erasure_id LIMIT $2"
_INSERT_ERASURES = """
INSERT INTO flotilla.erasures (tenant_id, erasure_id, person, reason, requested_by, confirmations_needed)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_SELECT_LEGAL_HOLDS = "SELECT person, reason, added_by, added_at FROM flotilla.legal_holds WHERE tenant_id = $1"
_ALL_HOLDS = f"{_SELECT_LEGAL_HOLDS} ORDER BY added_at DESC, person"
_HOLD = f"{_SELECT_LEGAL_HOLDS} AND person = $2"
_ADD_HOLD = """
INSERT INTO flotilla.legal_holds (tenant_id, person, reason, added_by) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING 1
"""
_REMOVE_HOLD = "DELETE FROM flotilla.legal_holds WHERE tenant_id = $1 AND person = $2 RETURNING reason"


async def plan_erasure(connection: Connection, tenant_id: str, person: str) -> ErasurePlan:
    """What an erasure of `person` would reach."""
    row = await connection.fetchrow(_SELECT_ERASURE_PLAN, tenant_id, person)
    assert row is not None  # noqa: S101 - it counts
    return ErasurePlan(person=person, **dict(row))


async def request_erasure(connection: Connection, caller: Principal, body: PersonBody, needed: int) -> Erasure:
    """Ask for an erasure; it waits until `needed` further people confirm it.

    Raises:
        NotFound: the person has no session.
        Conflict: a legal hold refuses it, or nothing of the person is encrypted.
    """
    person = user_name(body.issuer, body.subject)
    plan = await plan_erasure(connection, caller.tenant_id, person)
    await check_not_held(connection, caller.tenant_id, person)
    if plan.encrypted_sessions + plan.clear_sessions == 0:
        raise NotFound(f"{person} has no session: look how its owner is written (flotilla sessions access S)")
    if plan.encrypted_sessions == 0:
        raise Conflict(
            f"nothing of {person} is encrypted, so there is no key to destroy: the text of {plan.clear_sessions} "
            "sessions would stay (docs/privacy.md)"
        )
    erasure_id = new_id()
    await connection.execute(
        _INSERT_ERASURES, caller.tenant_id, erasure_id, person, body.reason, caller.subject, needed
    )
    erasure = await get_erasure(connection, caller.tenant_id, erasure_id)
    details = {"erasure_id": erasure_id, "person": person, "reason": body.reason}
    await record(connection, caller, "privacy_erasure_requested", details)
    return erasure


async def confirm_erasure(connection: Connection, caller: Principal, erasure_id: str) -> Erasure:
    """Confirm an erasure that somebody else asked for: with the last confirmation that it needs the person's key is
    destroyed in the caller's transaction.

    Raises:
        NotFound: no such erasure.
        Forbidden, Conflict: as `requests.confirm_request`.
    """
    await get_erasure(connection, caller.tenant_id, erasure_id)
    await confirm_request(connection, caller, erasure_id)
    return await get_erasure(connection, caller.tenant_id, erasure_id)


async def get_erasure(connection: Connection, tenant_id: str, erasure_id: str) -> Erasure:
    """Return the erasure.

    Raises:
        NotFound: the tenant has none of that id.
    """
    row = await connection.fetchrow(_GET, tenant_id, erasure_id)
    if row is None:
        raise no_such("erasure", erasure_id)
    return Erasure(**dict(row))


async def list_erasures(connection: Connection, tenant_id: str, limit: int) -> list[Erasure]:
    """Return the newest erasures."""
    return [Erasure(**dict(row)) for row in await connection.fetch(_LIST, tenant_id, limit)]


async def list_holds(connection: Connection, tenant_id: str) -> list[LegalHold]:
    """Return all legal holds, newest first."""
    return [LegalHold(**dict(row)) for row in await connection.fetch(_ALL_HOLDS, tenant_id)]


async def add_hold(connection: Connection, caller: Principal, body: PersonBody) -> LegalHold:
    """Refuse erasures of a person from now on.

    Raises:
        Conflict: there is a hold already.
    """
    person = user_name(body.issuer, body.subject)
    if not await connection.fetchval(_ADD_HOLD, caller.tenant_id, person, body.reason, caller.subject):
        raise Conflict(f"{person} is under a legal hold already: remove it first to give another reason")
    row = await connection.fetchrow(_HOLD, caller.tenant_id, person)
    assert row is not None  # noqa: S101 - just inserted
    await record(connection, caller, "privacy_hold_added", {"person": person, "reason": body.reason})
    return LegalHold(**dict(row))


async def remove_hold(connection: Connection, caller: Principal, subject: str, issuer: str) -> None:
    """Allow erasures of a person again.

    Raises:
        NotFound: there is no hold.
    """
    person = user_name(issuer, subject)
    if await connection.fetchval(_REMOVE_HOLD, caller.tenant_id, person) is None:
        raise NotFound(f"{person} is under no legal hold")
    await record(connection, caller, "privacy_hold_removed", {"person": person})
