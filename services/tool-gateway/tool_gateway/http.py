"""The HTTP client of servers behind a URL: it sends the credentials, and takes no more than it should."""

from collections.abc import AsyncIterator, Mapping

import httpx2

_CONNECT_S = 10.0


class ResponseTooLarge(httpx2.TransportError):
    """The server sends more than it may."""


class _Limited(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._left -= len(piece)
            if self._left < 0:
                raise ResponseTooLarge("the MCP server sent more than maxMessageBytes")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class LimitedTransport(httpx2.AsyncBaseTransport):
    """Limits the bodies of responses; streams of events are limited event by event, by the MCP client."""

    def __init__(self, transport: httpx2.AsyncBaseTransport, max_bytes: int) -> None:
        self._transport = transport
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response.

        Raises:
            ResponseTooLarge: it is compressed, although the request refused that: few bytes can become many.
        """
        response = await self._transport.handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise ResponseTooLarge("the MCP server sent a compressed response")
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.stream = _Limited(response.stream, self._max_bytes)  # type: ignore[arg-type]
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


def http_client_with_limit(headers: Mapping[str, str], *, timeout_s: float, max_bytes: int) -> httpx2.AsyncClient:
    """Return a client whose requests carry `headers`, and whose responses have at most `max_bytes`."""
    return httpx2.AsyncClient(
        headers={**headers, "accept-encoding": "identity"},
        transport=LimitedTransport(httpx2.AsyncHTTPTransport(), max_bytes),
        timeout=httpx2.Timeout(timeout_s, connect=_CONNECT_S),
    )
