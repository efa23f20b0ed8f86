"""POST of JSON to a server that holds keys, by the standard library alone: agents are built with what they need."""

import asyncio
import ssl
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
)

from flotilla.contracts.errors import ConfigurationError

TIMEOUT_S = 5.0
"""From the request to the last byte of its answer, however slowly that arrives."""
MOST_BYTES = 64_000
"""Of an answer; what is behind them is not read."""


class JsonPoster:
    """Posts to one server, past any proxy."""

    def __init__(self, url: str, ca_file: Path | None = None) -> None:
        """`url` is the server's address; `ca_file` has the certificates (PEM) that may have signed its own.

        Raises:
            ConfigurationError: the file can't be read.
        """
        self._url = url.rstrip("/")
        self._opener = _opener(ca_file)

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body of the answer; 0 and why, where there is none."""
        request = Request(  # noqa: S310 - http or https, say the settings
            self._url + path, body, {"content-type": "application/json", **(headers or {})}, method="POST"
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await asyncio.to_thread(self._post, request)
        except TimeoutError:
            return 0, f"no whole answer within {TIMEOUT_S:g} s".encode()

    def _post(self, request: Request) -> tuple[int, bytes]:
        try:
            with self._open(request) as answer:
                return answer.status, answer.read(MOST_BYTES)
        except (OSError, HTTPException) as error:
            return 0, f"{type(error).__name__}: {error}".encode()

    def _open(self, request: Request) -> Any:
        """The answer, a refusal, too."""
        try:
            return self._opener.open(request, timeout=TIMEOUT_S)
        except HTTPError as refusal:
            return refusal


def _opener(ca_file: Path | None) -> OpenerDirector:
    try:
        tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the certificates in {ca_file} can't be read: {error}") from error
    opener = OpenerDirector()
    # Neither proxies nor redirects: what is sent, and its token, is for the one server.
    for handler in (HTTPHandler(), HTTPSHandler(context=tls), HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
        opener.add_handler(handler)
    return opener
