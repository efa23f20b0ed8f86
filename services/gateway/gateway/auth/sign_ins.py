"""Sign-ins: rows in PostgreSQL, found by the hash of a cookie's secret, remembered for a few seconds like API keys."""

import secrets
from datetime import timedelta

import structlog
from starlette.requests import Request
from starlette.responses import Response

from flotilla.contracts.api_keys import api_key_hash
from flotilla.contracts.identity import LOCAL_ISSUER
from flotilla.postgres import Pool, tenant_transaction
from gateway.auth.api_keys import ApiKeys
from gateway.auth.origin import BrowserOriginPolicy
from gateway.auth.principal import Principal

COOKIE = "flotilla_sign_in"
_AUTHENTICATE_SIGN_IN = "SELECT * FROM flotilla.authenticate_sign_in($1)"
_OPEN_SIGN_INS = """
INSERT INTO flotilla.sign_ins (tenant_id, secret_hash, subject, roles, is_person, key_id, expires_at, issuer, groups)
VALUES ($1, $2, $3, $4, $5, $6, now() + $7, $8, $9)
"""
_DELETE_SIGN_INS = "DELETE FROM flotilla.sign_ins WHERE tenant_id = $1 AND secret_hash = $2"
log = structlog.get_logger(__name__)


class SignInSessions:
    """Opens, finds and ends sign-ins. What one is worth is asked of the database again after `cache_s`, so that a
    logout, a revoked key or a lost role holds at every replica by then."""

    def __init__(
        self, pool: Pool, origin: BrowserOriginPolicy, *, last_s: float, cache_s: float, issuer: str = LOCAL_ISSUER
    ) -> None:
        """`issuer` is the OpenID provider: sign-ins of former versions name none."""
        self._pool = pool
        self._known = ApiKeys(pool, cache_s, statement=_AUTHENTICATE_SIGN_IN, issuer=issuer)
        self._last = timedelta(seconds=last_s)
        self.origin = origin

    def has_cookie(self, request: Request) -> bool:
        """Whether the request brings one, good or not."""
        return self._secret(request) is not None

    async def find_principal(self, request: Request) -> Principal | None:
        """Who is signed in; None when nobody is.

        Raises:
            CrossSite: the request changes something, and comes from elsewhere.
        """
        secret = self._secret(request)
        principal = await self._known.find_principal(secret) if secret else None
        if principal is not None:
            self.origin.check_same_origin(request)
        return principal

    async def open(self, principal: Principal, request: Request, response: Response) -> None:
        """Sign `principal` in, and sign out the previous user of this browser: a secret never outlives its owner."""
        await self.end(request)
        secret = secrets.token_urlsafe(32)
        async with tenant_transaction(self._pool, principal.tenant_id) as connection:
            await connection.execute(
                _OPEN_SIGN_INS,
                principal.tenant_id,
                api_key_hash(secret),
                principal.subject,
                sorted(principal.roles),
                principal.is_person,
                principal.key_id,
                self._last,
                None if principal.key_id else principal.issuer,
                sorted(principal.groups),
            )
        self._set(request, response, secret, int(self._last.total_seconds()))
        log.info("signed_in", subject=principal.subject, tenant=principal.tenant_id, key_id=principal.key_id)

    async def end(self, request: Request, response: Response | None = None) -> None:
        """Signs out: here at once, at other replicas within a minute. Nothing happens when nobody is signed in."""
        secret = self._secret(request)
        principal = await self._known.find_principal(secret) if secret else None
        if secret is not None and principal is not None:
            digest = api_key_hash(secret)
            async with tenant_transaction(self._pool, principal.tenant_id) as connection:
                await connection.execute(_DELETE_SIGN_INS, principal.tenant_id, digest)
            self._known.clear_cache(digest)
            log.info("signed_out", subject=principal.subject, tenant=principal.tenant_id)
        if response is not None:
            self._set(request, response, "", 0)

    def clear_cache(self) -> None:
        """Asks the database again about all of them, since a key was revoked."""
        self._known.clear_cache()

    def _secret(self, request: Request) -> str | None:
        return request.cookies.get(self.origin.full_cookie_name(COOKIE, request))

    def _set(self, request: Request, response: Response, secret: str, last_s: int) -> None:
        response.set_cookie(
            self.origin.full_cookie_name(COOKIE, request),
            secret,
            max_age=last_s,
            path="/",
            secure=self.origin.uses_secure_cookies(request),
            httponly=True,
            samesite="strict",
        )
