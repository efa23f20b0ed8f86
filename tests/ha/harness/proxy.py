"""A TCP proxy on loopback that breaks the network between the services and a server.

All proxies of a fleet run in one thread with an event loop of its own, so that they go on while a test waits.
"""

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, Literal, TypeAlias, TypeVar

from flotilla_devstack.ports import LOOPBACK

Way = Literal["to_server", "to_client"]
WAYS: tuple[Way, ...] = ("to_server", "to_client")
_CHUNK = 65_536
_IN_FLIGHT = 64
"""Chunks that wait in a delayed connection."""
_ACCEPT = "accept"
Gates: TypeAlias = dict[Way, asyncio.Event]
"""Of the connections of one time: what is set passes."""
Chunks: TypeAlias = "asyncio.Queue[tuple[float, bytes]]"
"""When each is due, by the loop's clock; the end of the input is an empty one."""
T = TypeVar("T")


class Network:
    """The thread in which proxies run; `close` ends them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self._proxies: list[Proxy] = []

    def proxy(self, port: int, upstream: int) -> "Proxy":
        """A proxy that listens on `port` and passes on to the port `upstream`."""
        made = Proxy(self, port, upstream)
        self.run(made.open())
        self._proxies.append(made)
        return made

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run in the proxies' thread, and return when it is done."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def close(self) -> None:
        """End all proxies and the thread; harmless when repeated."""
        if self._loop.is_closed():
            return
        for proxy in self._proxies:
            self.run(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Proxy:
    """Passes bytes on, until it is asked not to. Its methods may be called from any thread but the proxies' own."""

    def __init__(self, network: Network, port: int, upstream: int) -> None:
        self.port = port
        self.upstream = upstream
        self._network = network
        self._listener = socket.socket()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.Event()
        self._gates: Gates = {way: asyncio.Event() for way in WAYS}
        self._delay: Callable[[], float] = _none

    # What a test does to it

    def flip(self, upstream: int) -> None:
        """Lead new connections elsewhere; those that are open stay where they are."""
        self.upstream = upstream

    def cut(self) -> None:
        """Reset every open connection."""
        self._network.run(self._cut())

    def delay(self, one_way_s: float, *, stalls: float = 0, stall_s: float = 0, seed: int = 0) -> None:
        """Let each chunk take `one_way_s`; the share `stalls` of them takes `stall_s` more."""
        draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._delay = lambda: one_way_s + (stall_s if draw.random() < stalls else 0)

    def stall(self, way: Way) -> None:
        """Pass nothing on in one direction; connections stay open, new ones, too."""
        self._network.run(self._set([self._gates[way]], on=False))

    def black_hole(self) -> None:
        """Pass nothing on, and accept no more connections than the kernel's queue takes: a machine that is gone."""
        self._network.run(self._set([self._accepting, *self._gates.values()], on=False))

    def strand(self) -> None:
        """Leave the open connections mute for good, and serve new ones: the machine is gone, its address is not."""
        self._network.run(self._strand())

    def heal(self) -> None:
        """Pass everything on again, what was held back first; what is stranded stays so."""
        self._delay = _none
        self._network.run(self._set([*self._gates.values(), self._accepting], on=True))

    # In the proxies' thread

    async def open(self) -> None:
        """Listen; called once, by the network."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((LOOPBACK, self.port))
        self._listener.listen(_IN_FLIGHT)
        self._listener.settimeout(0)
        await self._set([self._accepting, *self._gates.values()], on=True)
        self._keep(self._accept(), name=_ACCEPT)

    async def close(self) -> None:
        """End every connection and stop listening."""
        await self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted connections close in the loop's next round
        self._listener.close()

    async def _set(self, gates: Iterable[asyncio.Event], *, on: bool) -> None:
        for gate in gates:
            gate.set() if on else gate.clear()

    async def _strand(self) -> None:
        await self._set(self._gates.values(), on=False)
        self._gates = {way: asyncio.Event() for way in WAYS}
        await self._set([self._accepting, *self._gates.values()], on=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._accepting.wait()
            client, _ = await loop.sock_accept(self._listener)
            self._keep(self._connected(client))

    async def _connected(self, client: socket.socket) -> None:
        gates = self._gates
        async with _streams(client) as (reader, writer):
            await gates["to_server"].wait()
            try:
                there, back = await asyncio.open_connection(LOOPBACK, self.upstream)
            except OSError:
                return  # the server is away: so is its proxy
            try:
                await _first(
                    self._pass(gates["to_server"], reader, back), self._pass(gates["to_client"], there, writer)
                )
            finally:
                back.transport.abort()

    async def _pass(self, gate: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the end of the input, which is passed on in its turn, as everything is."""
        waiting: Chunks = asyncio.Queue(_IN_FLIGHT)
        await _first(self._read(reader, waiting), _write(gate, waiting, writer))

    async def _read(self, reader: asyncio.StreamReader, waiting: Chunks) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError):
                chunk = await reader.read(_CHUNK)
                await waiting.put((loop.time() + self._delay(), chunk))
                if chunk:
                    continue
            await waiting.put((loop.time(), b""))
            await asyncio.Event().wait()  # the writer ends both

    async def _cut(self) -> None:
        cut = [task for task in self._tasks if task.get_name() != _ACCEPT]
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, return_exceptions=True)

    def _keep(self, work: Coroutine[Any, Any, None], *, name: str = "connection") -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _write(gate: asyncio.Event, waiting: Chunks, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while True:
            due, chunk = await waiting.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await gate.wait()
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()


def _none() -> float:
    return 0.0


@contextlib.asynccontextmanager
async def _streams(client: socket.socket) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(sock=client)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _first(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until the first one ends, which ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
