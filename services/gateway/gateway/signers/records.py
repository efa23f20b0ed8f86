"""The rows of `flotilla.signers`, and their events in the tenant's audit session."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from flotilla.audit import admin_log as tenant_audit
from flotilla.contracts.envelope import from_json, to_builtins, to_json
from flotilla.contracts.errors import Conflict, Invalid, NotFound, no_such
from flotilla.contracts.ids import new_id, utc_now
from flotilla.contracts.json_types import JsonValue
from flotilla.contracts.votes import Signed, SignerStatement
from flotilla.postgres import Connection
from flotilla.votes.errors import Unproven
from flotilla.votes.proof import VerifiedSigner, verify_approved_signer, verify_key_possession
from flotilla.votes.roots import VoteRoots
from flotilla.votes.statements import parse_signed_statement, parse_statement_time
from gateway.auth.impersonation import Impersonation
from gateway.auth.principal import Principal
from gateway.names import SOURCE
from gateway.schemas.signers import Signer

_INSERT_SIGNERS = """
INSERT INTO flotilla.signers (tenant_id, signer_id, subject, kind, name, fingerprint, credential_id, statement,
    sign_count)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING RETURNING signer_id
"""
_APPROVE_SIGNERS = """
UPDATE flotilla.signers SET approval = $3, roles = $4, approved_by = $5, approved_at = now(), expires_at = $6
WHERE tenant_id = $1 AND signer_id = $2
"""
_REVOKE_SIGNERS = (
    "UPDATE flotilla.signers SET revoked_at = now(), revoked_by = $3 WHERE tenant_id = $1 AND signer_id = $2"
)
_SELECT_SIGNERS = "SELECT * FROM flotilla.signers WHERE tenant_id = $1 AND signer_id = $2"
_LOCK = f"{_SELECT_SIGNERS} FOR UPDATE"
# A page, newest first; $4 and $5 are the last row of the page before.
_LIST_SIGNERS = """
SELECT * FROM flotilla.signers
WHERE tenant_id = $1 AND ($2::text IS NULL OR subject = $2)
  AND ($4::timestamptz IS NULL OR (created_at, signer_id) < ($4, $5))
ORDER BY created_at DESC, signer_id DESC LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class EnrolledKey:
    """A key's own signature and its approval: what a vote carries."""

    signer: Signed
    approval: Signed


async def store_signer(connection: Connection, caller: Principal, signed: Signed, roots: VoteRoots) -> Signer:
    """Store the caller's own key; it counts once an administrator has approved it.

    Raises:
        Impersonation: the statement is another person's or tenant's, or the caller is not a person.
        Invalid: it is not signed with that key.
        Conflict: the key is enrolled already.
    """
    if not caller.is_person:
        why = f"{caller.subject} is not a person: only people sign votes"
        raise Impersonation("signer", caller, caller.subject, why)
    try:
        statement, key, sign_count = verify_key_possession(signed, roots)
    except Unproven as error:
        raise Invalid(f"the signed statement is not valid: {error}") from error
    if (statement.tenant, statement.subject) != (caller.tenant_id, caller.subject):
        why = f"{caller.subject} can't enroll a key for {statement.subject}: each person enrolls their own"
        raise Impersonation("signer", caller, statement.subject, why)
    row = (statement.subject, key.kind, statement.name, key.fingerprint, key.credential_id, to_json(signed).decode())
    signer_id = await connection.fetchval(_INSERT_SIGNERS, caller.tenant_id, new_id(), *row, sign_count)
    if signer_id is None:
        raise Conflict(f"key {key.fingerprint} is enrolled already, or was revoked: make another one")
    details = {**_named(statement, signer_id, key.fingerprint), "signed": to_builtins(signed)}
    await tenant_audit.record_admin_changes(connection, caller.tenant_id, SOURCE, ("signer_enrolled", details))
    return await get_signer(connection, caller.tenant_id, signer_id)


async def approve_signer_key(
    connection: Connection, caller: Principal, signer_id: str, approval: Signed, roots: VoteRoots
) -> Signer:
    """Store the approval of somebody's key by a second administrator, once it holds up to the roots.

    Raises:
        NotFound: no such signer.
        Impersonation: the caller is that person, not a person, or not the one who signed.
        Conflict: the key is approved or revoked already.
        Invalid: the approval does not hold.
    """
    row = await _locked(connection, caller.tenant_id, signer_id)
    if not caller.is_person or caller.subject == row["subject"]:
        why = "a second administrator, a person other than the key's, approves it"
        raise Impersonation("signer", caller, row["subject"], why)
    if row["revoked_at"] is not None or row["approved_at"] is not None:
        raise Conflict(f"signer {signer_id} is {signer_status(row)} already")
    proven = _proven(_signed(row["statement"]), approval, roots)
    if proven.approval.approved_by != caller.subject:
        why = f"the approval is signed as {proven.approval.approved_by}, not as {caller.subject}"
        raise Impersonation("signer", caller, proven.approval.approved_by, why)
    terms = proven.approval
    await connection.execute(
        _APPROVE_SIGNERS,
        caller.tenant_id,
        signer_id,
        to_json(approval).decode(),
        terms.roles,
        caller.subject,
        parse_statement_time(terms.expires_at),
    )
    details = {**_named(proven.statement, signer_id, proven.key.fingerprint), "roles": terms.roles}
    details |= {"by": caller.subject, "expires_at": terms.expires_at, "approval": to_builtins(approval)}
    await tenant_audit.record_admin_changes(connection, caller.tenant_id, SOURCE, ("signer_approved", details))
    return await get_signer(connection, caller.tenant_id, signer_id)


async def revoke_signer_key(connection: Connection, caller: Principal, signer_id: str) -> Signer:
    """Revoke a key, by its person or an administrator; again changes nothing.

    Raises:
        NotFound: no such signer, or it is another person's and the caller is not an administrator.
    """
    row = await _locked(connection, caller.tenant_id, signer_id)
    if caller.subject != row["subject"] and "admin" not in caller.roles:
        raise NotFound(f"you have no signer {signer_id}; an administrator can revoke those of others")
    if row["revoked_at"] is None:
        await connection.execute(_REVOKE_SIGNERS, caller.tenant_id, signer_id, caller.subject)
        details = {
            "signer_id": signer_id,
            "subject": row["subject"],
            "fingerprint": row["fingerprint"],
            "by": caller.subject,
        }
        await tenant_audit.record_admin_changes(connection, caller.tenant_id, SOURCE, ("signer_revoked", details))
    return await get_signer(connection, caller.tenant_id, signer_id)


async def load_enrolled_key(connection: Connection, caller: Principal, signer_id: str) -> EnrolledKey:
    """Return what a vote by the caller's key carries.

    Raises:
        NotFound: the caller has no such key, or it is not approved.
    """
    row = await connection.fetchrow(_SELECT_SIGNERS, caller.tenant_id, signer_id)
    if row is None or row["subject"] != caller.subject or row["approval"] is None:
        raise NotFound(f"{caller.subject} has no approved signer {signer_id}: see GET /v1/signers")
    return EnrolledKey(_signed(row["statement"]), _signed(row["approval"]))


async def get_signer(connection: Connection, tenant_id: str, signer_id: str) -> Signer:
    """Return one signer.

    Raises:
        NotFound: the tenant has no such signer.
    """
    row = await connection.fetchrow(_SELECT_SIGNERS, tenant_id, signer_id)
    if row is None:
        raise no_such("signer", signer_id)
    return signer_from_row(row)


async def list_signers(
    connection: Connection,
    tenant_id: str,
    *,
    subject: str | None,
    limit: int,
    before: tuple[datetime | None, str | None],
) -> list[asyncpg.Record]:
    """Return the rows of a page, newest first."""
    return await connection.fetch(_LIST_SIGNERS, tenant_id, subject, limit, *before)


def signer_from_row(row: asyncpg.Record) -> Signer:
    """Return a row as clients see it."""
    signed = _signed(row["statement"])
    public_key = parse_signed_statement(signed.statement, SignerStatement).public_key
    return Signer.model_validate(
        {**dict(row), "status": signer_status(row), "signed": to_builtins(signed), "public_key": public_key}
    )


def signer_status(row: asyncpg.Record) -> str:
    """Return `pending`, `approved`, `expired` or `revoked`."""
    if row["revoked_at"] is not None:
        return "revoked"
    if row["approved_at"] is None:
        return "pending"
    return "approved" if row["expires_at"] > utc_now() else "expired"


def _proven(signer: Signed, approval: Signed, roots: VoteRoots) -> VerifiedSigner:
    try:
        return verify_approved_signer(signer, approval, roots, utc_now())
    except Unproven as error:
        raise Invalid(f"the signed statement is not valid: {error}") from error


async def _locked(connection: Connection, tenant_id: str, signer_id: str) -> asyncpg.Record:
    row = await connection.fetchrow(_LOCK, tenant_id, signer_id)
    if row is None:
        raise no_such("signer", signer_id)
    return row


def _signed(column: str) -> Signed:
    return from_json(column, Signed)


def _named(statement: SignerStatement, signer_id: str, fingerprint: str) -> dict[str, JsonValue]:
    return {
        "signer_id": signer_id,
        "subject": statement.subject,
        "kind": statement.kind,
        "name": statement.name,
        "fingerprint": fingerprint,
    }
