"""The public keys of an OpenID provider, fetched when they are needed and again when they rotate."""

import asyncio
import ssl
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import jwt
import structlog

from flotilla.contracts.errors import RetryLater
from gateway.auth.provider_answers import ask, required_text
from gateway.settings import is_confidential_url

DISCOVERY_PATH = "/.well-known/openid-configuration"
MAX_AGE_S = 600.0
"""A key that the provider withdrew stops working after this."""
PAUSE_S = 5.0
"""Between two fetches: tokens with made-up key ids must not flood the provider."""
STALE_FOR_S = 3600.0
"""How long known keys are used while the provider does not answer."""
log = structlog.get_logger(__name__)


class Jwks:
    """The key set. One fetch at a time; the rest wait for it."""

    def __init__(
        self,
        issuer: str,
        jwks_url: str | None,
        *,
        ca_file: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer.rstrip("/")
        self._url = jwks_url
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._monotonic = monotonic
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def key(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key of that id; None when the provider has no such key.

        Raises:
            RetryLater: the provider does not answer, and no key is known that is fresh enough.
        """
        if self._age() > MAX_AGE_S or key_id not in self._keys:
            async with self._fetching:
                await self._refresh(key_id)
        if self._age() > MAX_AGE_S + STALE_FOR_S:
            raise RetryLater(
                f"the OpenID provider {self._issuer} does not answer as it should, so its tokens can't be checked"
            )
        return self._keys.get(key_id)

    def _age(self) -> float:
        return self._monotonic() - self._fetched_at

    async def _refresh(self, key_id: str | None) -> None:
        known = self._age() <= MAX_AGE_S and key_id in self._keys
        if known or self._monotonic() - self._tried_at < PAUSE_S:
            return
        self._tried_at = self._monotonic()
        try:
            self._keys = await asyncio.to_thread(self._fetch)
        except (OSError, ValueError) as error:
            log.warning("jwks_not_fetched", issuer=self._issuer, error=str(error))
            return
        self._fetched_at = self._monotonic()

    def _fetch(self) -> dict[str | None, jwt.PyJWK]:
        url = self._url or self._discovered()
        return _signing_keys(self._ask(url), url)

    def _discovered(self) -> str:
        url = self._issuer + DISCOVERY_PATH
        return required_text(self._ask(url), "jwks_uri", url)

    def _ask(self, url: str) -> dict[str, Any]:
        if not is_confidential_url(url):
            raise ValueError(f"{url} is not https: others could send their own keys")
        return ask(urllib.request.Request(url), self._tls)  # noqa: S310 - it is http or https


def _signing_keys(document: dict[str, Any], url: str) -> dict[str | None, jwt.PyJWK]:
    try:
        found = jwt.PyJWKSet.from_dict(document)
        return {key.key_id: key for key in found.keys if key.public_key_use in (None, "sig")}
    except (jwt.PyJWTError, TypeError) as error:
        raise ValueError(f"{url} is not a set of keys: {error}") from error
