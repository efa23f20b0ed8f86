"""The rows of erasures and legal holds, and their events in the tenant's audit session."""

from collections.abc import Mapping

from flotilla.audit import admin_log
from flotilla.contracts.errors import Conflict, Forbidden, NotFound
from flotilla.contracts.identity import user_name
from flotilla.contracts.ids import new_id
from flotilla.contracts.json_types import JsonValue
from flotilla.postgres import Connection
from gateway.auth.issuers import key_issuers_of_subject
from gateway.auth.principal import Principal
from gateway.names import SOURCE
from gateway.schemas.privacy import Erasure, ErasurePlan, LegalHold, PersonBody

_PLAN = "SELECT * FROM flotilla.erasure_plan($1, $2)"
_ERASURE = """
SELECT erasure_id, person, reason, requested_by, requested_at, confirmed_by, confirmed_at, finished_at
FROM flotilla.erasures WHERE tenant_id = $1
"""
_GET = f"{_ERASURE} AND erasure_id = $2"
_LIST = f"{_ERASURE} ORDER BY requested_at DESC, erasure_id LIMIT $2"
_ASK = """
INSERT INTO flotilla.erasures (tenant_id, erasure_id, person, reason, requested_by) VALUES ($1, $2, $3, $4, $5)
"""
_CONFIRM = "SELECT flotilla.confirm_erasure($1, $2, $3)"
_HOLDS = "SELECT person, reason, added_by, added_at FROM flotilla.legal_holds WHERE tenant_id = $1"
_ALL_HOLDS = f"{_HOLDS} ORDER BY added_at DESC, person"
_HOLD = f"{_HOLDS} AND person = $2"
_ADD_HOLD = """
INSERT INTO flotilla.legal_holds (tenant_id, person, reason, added_by) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING 1
"""
_REMOVE_HOLD = "DELETE FROM flotilla.legal_holds WHERE tenant_id = $1 AND person = $2 RETURNING reason"


async def plan_erasure(connection: Connection, tenant_id: str, person: str) -> ErasurePlan:
    """What an erasure of `person` would reach."""
    row = await connection.fetchrow(_PLAN, tenant_id, person)
    assert row is not None  # noqa: S101 - it counts
    return ErasurePlan(person=person, **dict(row))


async def request_erasure(connection: Connection, caller: Principal, body: PersonBody) -> Erasure:
    """Ask for an erasure; it waits for the confirmation of a second person.

    Raises:
        NotFound: the person has no session.
        Conflict: a legal hold refuses it, or nothing of the person is encrypted.
    """
    person = user_name(body.issuer, body.subject)
    plan = await plan_erasure(connection, caller.tenant_id, person)
    _check_not_held(person, plan.held_for)
    if plan.encrypted_sessions + plan.clear_sessions == 0:
        raise NotFound(f"{person} has no session: look how its owner is written (flotilla sessions access S)")
    if plan.encrypted_sessions == 0:
        raise Conflict(
            f"nothing of {person} is encrypted, so there is no key to destroy: the text of {plan.clear_sessions} "
            "sessions would stay (docs/privacy.md)"
        )
    erasure_id = new_id()
    await connection.execute(_ASK, caller.tenant_id, erasure_id, person, body.reason, caller.subject)
    erasure = await get_erasure(connection, caller.tenant_id, erasure_id)
    details = {"erasure_id": erasure_id, "person": person, "reason": body.reason}
    await _record(connection, caller, "privacy_erasure_requested", details)
    return erasure


async def confirm_erasure(connection: Connection, caller: Principal, erasure_id: str) -> Erasure:
    """Confirm an erasure that somebody else asked for: the person's key is destroyed with the caller's transaction.

    Raises:
        NotFound: no such erasure.
        Forbidden: the caller asked for it, is a service, or issued a key of who asked, or the other way round.
        Conflict: it is confirmed already, or a legal hold refuses it.
    """
    if not caller.is_person:
        raise Forbidden(f"{caller.subject} is a service: a second person has to confirm erasure {erasure_id}")
    await _check_keys_of_two(connection, caller, await get_erasure(connection, caller.tenant_id, erasure_id))
    outcome = await connection.fetchval(_CONFIRM, caller.tenant_id, erasure_id, caller.subject)
    erasure = await get_erasure(connection, caller.tenant_id, erasure_id)
    if outcome == "same":
        raise Forbidden(f"{caller.subject} asked for it: a second person has to confirm erasure {erasure_id}")
    if outcome == "confirmed":
        raise Conflict(f"erasure {erasure_id} was confirmed by {erasure.confirmed_by} already")
    if outcome == "held":
        hold = await connection.fetchrow(_HOLD, caller.tenant_id, erasure.person)
        _check_not_held(erasure.person, "removed just now: try again" if hold is None else hold["reason"])
    await _record(connection, caller, "privacy_erasure_confirmed", {"erasure_id": erasure_id, "person": erasure.person})
    return erasure


async def get_erasure(connection: Connection, tenant_id: str, erasure_id: str) -> Erasure:
    """Return the erasure.

    Raises:
        NotFound: the tenant has none of that id.
    """
    row = await connection.fetchrow(_GET, tenant_id, erasure_id)
    if row is None:
        raise NotFound(f"no erasure {erasure_id}")
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
    await _record(connection, caller, "privacy_hold_added", {"person": person, "reason": body.reason})
    return LegalHold(**dict(row))


async def remove_hold(connection: Connection, caller: Principal, subject: str, issuer: str) -> None:
    """Allow erasures of a person again.

    Raises:
        NotFound: there is no hold.
    """
    person = user_name(issuer, subject)
    if await connection.fetchval(_REMOVE_HOLD, caller.tenant_id, person) is None:
        raise NotFound(f"{person} is under no legal hold")
    await _record(connection, caller, "privacy_hold_removed", {"person": person})


async def _check_keys_of_two(connection: Connection, caller: Principal, erasure: Erasure) -> None:
    """Raises Forbidden: one of the two issued a key of the other, and may hold a copy."""
    both = (caller.subject, erasure.requested_by)
    for one, other in (both, both[::-1]):
        if one in await key_issuers_of_subject(connection, caller.tenant_id, other):
            raise Forbidden(
                f"{one} issued a key of {other}, so the two do not count as two people: "
                f"another admin has to confirm erasure {erasure.erasure_id}"
            )


def _check_not_held(person: str, reason: str | None) -> None:
    if reason is not None:
        raise Conflict(f"{person} is under a legal hold: {reason}")


async def _record(connection: Connection, caller: Principal, change: str, details: Mapping[str, JsonValue]) -> None:
    await admin_log.record_admin_changes(connection, caller.tenant_id, SOURCE, (change, {**details, **caller.by}))
