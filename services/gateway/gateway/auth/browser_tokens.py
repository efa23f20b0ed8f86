"""Browser tokens: rows in PostgreSQL, found by the hash of a secret, like sign-ins. Each is worth a few sessions of who
made it, for some minutes, and nothing else: neither votes nor keys nor further tokens."""

from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from flotilla.contracts.api_keys import api_key_hash, new_browser_token
from flotilla.contracts.errors import Forbidden, NotFound
from flotilla.contracts.ids import utc_now
from flotilla.contracts.names import AUDIT_SESSION
from flotilla.postgres import Pool, acting_as, tenant_transaction
from gateway.auth.api_keys import ApiKeys
from gateway.auth.principal import OPERATORS, BrowserTokenGrant, Principal

_AUTHENTICATE_BROWSER = "SELECT * FROM flotilla.authenticate_browser_token($1)"
_INSERT_BROWSER_TOKENS = """
INSERT INTO flotilla.browser_tokens (tenant_id, token_id, secret_hash, subject, issuer, groups, is_person, acted_by,
    key_id, sessions, scopes, workflows, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""
_SELECT_SEEN_SESSIONS = "SELECT session_id FROM flotilla.sessions WHERE tenant_id = $1 AND session_id = ANY($2)"
log = structlog.get_logger(__name__)


def browser_token_lookup(pool: Pool, cache_s: float) -> ApiKeys:
    """Return what finds who acts with a token. A revocation of its maker's key holds after `cache_s` at the latest."""
    return ApiKeys(pool, cache_s, statement=_AUTHENTICATE_BROWSER)


async def create_browser_token(
    pool: Pool, maker: Principal, grant: BrowserTokenGrant, lasts: timedelta
) -> tuple[str, datetime]:
    """Store a token of `maker`; return it and when it ends: after `lasts`, or with what `maker` came with.

    Raises:
        Forbidden: the maker may not start runs itself, or the token would reach what administrators did.
        NotFound: a token that only reads names a session which it would not see.
    """
    if "run" in grant.scopes and maker.roles.isdisjoint(OPERATORS):
        raise Forbidden(f"the scope run takes the role operator, which {maker.subject} lacks")
    if AUDIT_SESSION in grant.sessions:
        raise Forbidden(f"session {AUDIT_SESSION} is read with a key, not with a browser token")
    if "run" not in grant.scopes:
        await _check_seen(pool, replace(maker, grant=grant))
    expires_at = utc_now() + lasts
    if maker.expires_at is not None:
        expires_at = min(expires_at, maker.expires_at)
    token = new_browser_token()
    async with tenant_transaction(pool, maker.tenant_id) as connection:
        await connection.execute(
            _INSERT_BROWSER_TOKENS,
            maker.tenant_id,
            grant.token_id,
            api_key_hash(token),
            maker.subject,
            maker.issuer,
            sorted(maker.groups),
            maker.is_person,
            maker.acted_by,
            maker.key_id,
            sorted(grant.sessions),
            sorted(grant.scopes),
            sorted(grant.workflows),
            expires_at,
        )
    log.info("browser_token_made", token_id=grant.token_id, by=maker.subject, tenant=maker.tenant_id)
    return token, expires_at


async def _check_seen(pool: Pool, bearer: Principal) -> None:
    """Raise NotFound for a session that the token's bearer would not see: its maker's role of operator is not in it."""
    assert bearer.grant is not None  # noqa: S101 - of a token
    sessions = sorted(bearer.grant.sessions)
    with acting_as(bearer.database_viewer(())):
        async with tenant_transaction(pool, bearer.tenant_id) as connection:
            seen = {
                row["session_id"] for row in await connection.fetch(_SELECT_SEEN_SESSIONS, bearer.tenant_id, sessions)
            }
    if missing := [session for session in sessions if session not in seen]:
        raise NotFound(
            f"no session {missing[0]} of {bearer.subject}: open it first, or add the scope run; of a fork, list the "
            "sessions that it was forked from, too"
        )
