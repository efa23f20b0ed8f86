"""OpenID Connect's authorization code flow with PKCE: out to the provider, and back with a principal."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from starlette.requests import Request
from starlette.responses import Response

from gateway.auth.oidc import OidcTokens
from gateway.auth.origin import BrowserOriginPolicy
from gateway.auth.principal import Principal
from gateway.login.attempts import LAST_S, LoginAttempts
from gateway.login.provider import OidcProvider

COOKIE = "flotilla_login"
CALLBACK = "/auth/oidc/callback"


class LoginFailed(Exception):
    """Nobody is signed in. `reason` is a word for the login page: denied, expired, unknown or no_role."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationResponse:
    """What the provider sends the browser back with; empty is absent."""

    state: str
    code: str
    error: str
    issuer: str
    """Guards against answers of another provider (RFC 9207)."""


class AuthorizationCodeFlow:
    """Both halves of a login."""

    def __init__(
        self, provider: OidcProvider, tokens: OidcTokens, attempts: LoginAttempts, origin: BrowserOriginPolicy
    ) -> None:
        """`tokens` checks identity tokens, whose audience is the client."""
        self._provider = provider
        self._tokens = tokens
        self._attempts = attempts
        self._origin = origin

    async def start_login(self, request: Request, destination: str) -> tuple[str, str]:
        """Where the browser goes, and the secret that it keeps meanwhile (the same for all its tabs)."""
        browser = self._browser(request) or secrets.token_urlsafe(32)
        state, attempt = await self._attempts.begin_attempt(browser, destination)
        url = await self._provider.authorization_url(state=state, nonce=attempt.nonce, verifier=attempt.verifier)
        return url, browser

    def keep(self, request: Request, response: Response, browser: str) -> None:
        """Give the browser its secret. Lax, since the provider sends it back here from another site."""
        response.set_cookie(
            self._origin.full_cookie_name(COOKIE, request),
            browser,
            max_age=LAST_S,
            path="/",
            secure=self._origin.uses_secure_cookies(request),
            httponly=True,
            samesite="lax",
        )

    async def finish_login(self, request: Request, answer: AuthorizationResponse) -> tuple[Principal, str]:
        """Who came back, and where to.

        Raises:
            LoginFailed: the provider or this gateway says no.
            RetryLater: the provider does not answer.
        """
        attempt = await self._attempts.take_attempt(answer.state, self._browser(request))
        if attempt is None:
            raise LoginFailed("expired")
        if answer.error or answer.issuer not in ("", self._provider.client.issuer):
            raise LoginFailed("denied")
        token = await self._provider.fetch_id_token(answer.code, attempt.verifier)
        principal = await self._principal_of(token, attempt.nonce) if token else None
        if principal is None:
            raise LoginFailed("unknown")
        if not principal.roles:
            raise LoginFailed("no_role")
        return principal, attempt.destination

    def _browser(self, request: Request) -> str:
        return request.cookies.get(self._origin.full_cookie_name(COOKIE, request), "")

    async def _principal_of(self, token: str, nonce: str) -> Principal | None:
        principal = await self._tokens.find_principal(token)
        if principal is None:
            return None
        claims = jwt.decode(token, options={"verify_signature": False})  # it was checked just above
        is_ours = _is_for(claims, self._provider.client.client_id)
        return principal if is_ours and secrets.compare_digest(str(claims.get("nonce")), nonce) else None


def _is_for(claims: Mapping[str, Any], client_id: str) -> bool:
    """OpenID Connect Core 3.1.3.7, 3 to 5: `azp` is this client, and is there when others are in the audience."""
    audience, party = claims["aud"], claims.get("azp")
    is_alone = isinstance(audience, str) or len(audience) == 1
    return bool(party == client_id or (party is None and is_alone))
