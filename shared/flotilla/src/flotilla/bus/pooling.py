"""A pool of connections to Redis that leaves a server which was demoted or has fallen silent.

After a switchover the old primary goes on answering, as a replica, on the connections that are open; only new ones
reach the new primary. So one READONLY makes all connections of the pool reconnect. Sentinel demotes the old primary
up to 20 s after it promoted another one, and what is written meanwhile is lost: so the sentinels are asked at work.
"""

import math
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ReadOnlyError, RedisError

from flotilla.bus.sentinel import PrimaryConnection

SILENT_PEER_SOCKET_OPTIONS = {
    option: value
    for name, value in {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": 8_000}.items()
    if (option := getattr(socket, name, None)) is not None
}
"""Socket options (tcp(7)) that end a connection whose other side no longer answers."""
SENTINEL_CHECK_INTERVAL_S = 1.0
"""How long an answer of the sentinels counts; ten times as long where none answered, since asking takes time."""


class PrimaryPool(ConnectionPool):
    """Connects to the primary again, with every connection, once told that its server is none."""

    def __init__(self, connection_class: type[AbstractConnection], **options: Any) -> None:
        super().__init__(
            connection_class=_with_demotion_callback(connection_class, self.replace_connections), **options
        )
        self._look_at_s = 0.0 if issubclass(connection_class, PrimaryConnection) else math.inf

    def replace_connections(self) -> None:
        """Replace each connection: an idle one when it is taken, one in use when it comes back."""
        for connection in (*self._available_connections, *self._in_use_connections):
            connection.mark_for_reconnect()  # type: ignore[no-untyped-call]

    async def _leave_demoted_server(self) -> None:
        """Leave a server that the sentinels no longer name: cut off from them, it may go on answering."""
        everything = (*self._available_connections, *self._in_use_connections)
        following = [each for each in everything if isinstance(each, PrimaryConnection) and each.is_connected]
        if not following:
            return
        self._look_at_s = (
            time.monotonic() + 10 * SENTINEL_CHECK_INTERVAL_S
        )  # others that take a connection meanwhile do not wait
        with suppress(RedisError):  # without sentinels, what there is goes on
            if {each.server_address for each in following} != {await following[0].sentinels.find_primary()}:
                self.replace_connections()
            self._look_at_s = time.monotonic() + SENTINEL_CHECK_INTERVAL_S

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Called by redis-py for each connection that is taken."""
        if time.monotonic() >= self._look_at_s:
            await self._leave_demoted_server()
        if connection.should_reconnect():  # type: ignore[no-untyped-call]
            await connection.disconnect()
        await super().ensure_connection(connection)


def _with_demotion_callback(kind: type[AbstractConnection], on_demoted: Callable[[], None]) -> type[AbstractConnection]:
    class Noticing(kind):  # type: ignore[valid-type, misc]
        async def read_response(self, *arguments: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*arguments, **options)
            except ReadOnlyError:
                on_demoted()
                raise

    return Noticing
