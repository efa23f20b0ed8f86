"""The public keys of an OpenID provider, fetched when they are needed and again when they rotate."""

import asyncio
import json
import ssl
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import jwt
import structlog

from flotilla.contracts.errors import RetryLater

DISCOVERY_PATH = "/.well-known/openid-configuration"
MAX_AGE_S = 600.0
"""A key that the provider withdrew stops working after this."""
PAUSE_S = 5.0
"""Between two fetches: tokens with made-up key ids must not flood the provider."""
STALE_FOR_S = 3600.0
"""How long known keys are used while the provider does not answer."""
TIMEOUT_S = 5.0
MAX_BYTES = 1_000_000
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
            raise RetryLater(f"the OpenID provider {self._issuer} does not answer, so its tokens can't be checked")
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
        except (OSError, ValueError, jwt.PyJWTError) as error:
            log.warning("jwks_not_fetched", issuer=self._issuer, error=str(error))
            return
        self._fetched_at = self._monotonic()

    def _fetch(self) -> dict[str | None, jwt.PyJWK]:
        if self._url is None:
            self._url = str(self._get(self._issuer + DISCOVERY_PATH)["jwks_uri"])
        found = jwt.PyJWKSet.from_dict(self._get(self._url))
        signing = [key for key in found.keys if key.public_key_use in (None, "sig")]
        return {key.key_id: key for key in signing}

    def _get(self, url: str) -> dict[str, Any]:
        request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - from settings
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self._tls) as answer:  # noqa: S310
            document = json.loads(answer.read(MAX_BYTES))
        if not isinstance(document, dict):
            raise ValueError(f"{url} is not a JSON object")  # noqa: TRY004 - a wrong answer, not a wrong argument
        return document
