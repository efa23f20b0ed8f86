"""The OpenID provider as the authorization code flow needs it: its addresses, and codes turned into identity tokens.

Sources: OpenID Connect Core 1.0 (3.1), OpenID Connect Discovery 1.0, RFC 6749, RFC 7636 (PKCE), RFC 9207 (`iss`).
"""

import asyncio
import base64
import hashlib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import structlog

from flotilla.contracts.errors import RetryLater
from gateway.auth.jwks import DISCOVERY_PATH, MAX_AGE_S
from gateway.auth.provider_answers import ask, required_text
from gateway.settings import is_confidential_url

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcClient:
    """Who the gateway is to the provider."""

    issuer: str
    client_id: str
    client_secret: str | None
    """None for a public client, which PKCE alone protects."""
    redirect_uri: str
    scopes: tuple[str, ...]
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class _Addresses:
    authorization: str
    token: str


class OidcProvider:
    """Asks the provider; what its discovery document says is remembered for ten minutes."""

    def __init__(self, client: OidcClient, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.client = client
        self._tls = ssl.create_default_context(cafile=client.ca_file)
        self._monotonic = monotonic
        self._found: _Addresses | None = None
        self._found_at = float("-inf")
        self._finding = asyncio.Lock()

    async def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """Where to send the browser.

        Raises:
            RetryLater: the provider does not answer.
        """
        addresses = await self._addresses()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self.client.client_id,
                "redirect_uri": self.client.redirect_uri,
                "scope": " ".join(self.client.scopes),
                "state": state,
                "nonce": nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        return addresses.authorization + ("&" if urlsplit(addresses.authorization).query else "?") + query

    async def fetch_id_token(self, code: str, verifier: str) -> str | None:
        """The identity token for `code`, not yet checked; None when the provider refuses the code.

        Raises:
            RetryLater: the provider does not answer.
        """
        addresses = await self._addresses()
        try:
            answer = await asyncio.to_thread(self._redeem, addresses.token, code, verifier)
        except (OSError, ValueError) as error:
            raise self._away(error) from error
        token = answer.get("id_token") if answer else None
        return token if isinstance(token, str) else None

    async def _addresses(self) -> _Addresses:
        async with self._finding:
            if self._found is None or self._monotonic() - self._found_at > MAX_AGE_S:
                try:
                    self._found = await asyncio.to_thread(self._discover)
                except (OSError, ValueError) as error:
                    raise self._away(error) from error
                self._found_at = self._monotonic()
            return self._found

    def _away(self, error: Exception) -> RetryLater:
        log.warning("oidc_provider_away", issuer=self.client.issuer, error=str(error))
        return RetryLater(f"the OpenID provider {self.client.issuer} does not answer as it should; try again")

    def _discover(self) -> _Addresses:
        url = self.client.issuer.rstrip("/") + DISCOVERY_PATH
        document = ask(urllib.request.Request(url), self._tls)  # noqa: S310 - from settings
        if (issuer := document.get("issuer")) != self.client.issuer:
            raise ValueError(f"{url} speaks for {issuer}, not for {self.client.issuer}")
        authorization, token = (
            required_text(document, name, url) for name in ("authorization_endpoint", "token_endpoint")
        )
        found = _Addresses(authorization, token)
        for address in (found.authorization, found.token):
            if not is_confidential_url(address):
                raise ValueError(f"{address} is not https")
        return found

    def _redeem(self, url: str, code: str, verifier: str) -> dict[str, Any] | None:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.client.redirect_uri,
            "code_verifier": verifier,
            "client_id": self.client.client_id,
        }
        request = urllib.request.Request(url, urlencode(form).encode())  # noqa: S310 - checked when it was discovered
        if self.client.client_secret is not None:
            request.add_header("Authorization", _basic(self.client.client_id, self.client.client_secret))
        try:
            return ask(request, self._tls)
        except urllib.error.HTTPError as error:
            if error.code >= 500:  # noqa: PLR2004 - the server's own fault
                raise
            log.warning("oidc_code_refused", issuer=self.client.issuer, status=error.code)
            return None


def _basic(client_id: str, client_secret: str) -> str:
    """RFC 6749, 2.3.1: both are form-encoded first."""
    pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
