"""JSON to a model's endpoint and back, with a bound on what is read."""

from typing import Any

import httpx
from pydantic import SecretStr


def open_client(key: SecretStr | None, timeout_s: float) -> httpx.AsyncClient:
    """Return a client that signs its requests with `key`; it connects to nothing yet."""
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    return httpx.AsyncClient(headers=headers, timeout=timeout_s)


async def post_json(client: httpx.AsyncClient, url: str, request: Any, most_bytes: int) -> bytes:
    """Return the answer to `request`, which has at most `most_bytes`.

    Raises:
        httpx.HTTPError: there is no such answer.
    """
    body = bytearray()
    async with client.stream("POST", url, json=request) as response:
        response.raise_for_status()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > most_bytes:
                raise httpx.ReadError(f"the answer is longer than {most_bytes} bytes")
    return bytes(body)
