"""What one client may hold of an HTTP server: connections, and time for a request to arrive.

uvicorn waits without limit for the rest of a request, and handles all that has arrived of one in a single turn of the
event loop. Here a request's head has a deadline from its first byte, its body one that moves with what arrives, a turn
a number of events, and an address a number of connections.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import h11
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEADERS = 100
MAX_HEAD_BYTES = 64 * 1024
EVENTS_PER_TURN = 200
"""Of one connection, until the others have their turn: a body may arrive as chunks of one byte each."""
_READING_AGAIN_S = 1.0


async def limited_body(request: Request, max_bytes: int) -> bytes | None:
    """The request's body; None for one that is larger, of which no more is read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            return None
    return bytes(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What the server allows each client."""

    head_s: float = 10.0
    """From the first byte of a request's head to its last."""
    body_s: float = 30.0
    """For a request's body, beyond what it takes at `body_bytes_per_s`."""
    body_bytes_per_s: int = 16 * 1024
    connections_per_address: int = 256
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks: they hold connections for others, as many as they need."""


@dataclass(slots=True)
class ConnectionCounter:
    """The open connections of one server, by address."""

    limits: HttpLimits
    _open: Counter[str] = field(default_factory=Counter)
    _proxies: list[IPv4Network | IPv6Network] = field(init=False)

    def __post_init__(self) -> None:
        self._proxies = [ip_network(proxy, strict=False) for proxy in self.limits.trusted_proxies]

    def take(self, address: str) -> bool:
        """Count one more; False when the address has as many as it may."""
        if self._open[address] >= self.limits.connections_per_address and not self._is_proxy(address):
            return False
        self._open[address] += 1
        return True

    def remove_connection(self, address: str) -> None:
        """Count one less."""
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]

    def _is_proxy(self, address: str) -> bool:
        try:
            found = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(found in network for network in self._proxies)


def limited_protocol(limits: HttpLimits) -> Callable[..., "LimitedProtocol"]:
    """Return what makes the protocol of each connection of one server."""
    return partial(LimitedProtocol, ConnectionCounter(limits))


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with limits."""

    def __init__(self, others: ConnectionCounter, **options: Any) -> None:
        super().__init__(**options)
        self.conn = _PacedConnection(self._go_on_later)
        self._others = others
        self._limits = others.limits
        self._address: str | None = None
        self._state: object = None
        self._since = 0.0
        self._received = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it when its address has as many as it may."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self._others.take(address):
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS)
            return
        self._address = address
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the connection's place to the next."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
        if self._address is not None:
            self._others.remove_connection(self._address)
            self._address = None

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._state is h11.DONE:
            self._watch()  # the former request is answered: this is the next one's first byte
        self._received += len(data)
        super().data_received(data)
        self._watch()

    def handle_events(self) -> None:
        """Handle a turn's worth of what has arrived."""
        self.conn.events_left = EVENTS_PER_TURN  # type: ignore[attr-defined]
        super().handle_events()

    def _go_on_later(self) -> None:
        self.loop.call_soon(self._go_on, self.flow.read_paused)
        self.flow.pause_reading()

    def _go_on(self, was_paused: bool) -> None:
        if self.transport.is_closing():
            return
        if not was_paused:
            self.flow.resume_reading()
        self.handle_events()
        self._watch()

    def _watch(self) -> None:
        """Look at how far the request is, and set the timer for when it has to be further."""
        state = self.conn.their_state
        if state is not self._state:
            self._state, self._since, self._received = state, self.loop.time(), 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left = self._seconds_left()
        if left is None or self.transport.is_closing():
            return
        if left <= 0:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self._timer = self.loop.call_later(left, self._watch)

    def _seconds_left(self) -> float | None:
        waited = self.loop.time() - self._since
        if self._state is h11.IDLE:
            return None if self.timeout_keep_alive_task is not None else self._limits.head_s - waited
        if self._state is h11.SEND_BODY:
            if self.flow.read_paused:
                return _READING_AGAIN_S  # the application is behind, not the client
            return self._limits.body_s + self._received / self._limits.body_bytes_per_s - waited
        return None

    def _refuse(self, status: HTTPStatus) -> None:
        """Close the connection, with a word of why where no answer has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            self.transport.write(head.encode())
        self.transport.close()


class _PacedConnection(h11.Connection):
    """Says that it needs more data after a number of events, and has itself called again."""

    def __init__(self, go_on_later: Callable[[], None]) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.events_left = EVENTS_PER_TURN
        self._go_on_later = go_on_later

    def next_event(self) -> Any:
        """Return the next event, or that there is none for now."""
        if not self.events_left:
            self._go_on_later()
            return h11.NEED_DATA
        self.events_left -= 1
        event = super().next_event()
        if isinstance(event, h11.Request):
            _check_head(event)
        return event


def _check_head(request: h11.Request) -> None:
    size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
    if len(request.headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
        raise h11.RemoteProtocolError("the head of the request is too large", error_status_hint=431)
