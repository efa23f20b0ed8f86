"""What the proxy does to connections, each as its name says."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from flotilla_devstack.ports import LOOPBACK, free_port
from tests.ha.harness.proxy import Network, Proxy

MUTE_S = 0.3


@dataclass
class Echo:
    """A server that answers each line with its own name in front, and keeps what it was sent."""

    name: bytes
    port: int = 0
    received: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while line := await reader.readline():
            self.received.append(line)
            writer.write(self.name + line)


@pytest.fixture
async def first() -> AsyncIterator[Echo]:
    async for echo in _serving(b"first "):
        yield echo


@pytest.fixture
async def second() -> AsyncIterator[Echo]:
    async for echo in _serving(b"second "):
        yield echo


async def _serving(name: bytes) -> AsyncIterator[Echo]:
    echo = Echo(name)
    server = await asyncio.start_server(echo.serve, LOOPBACK, 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()
    await _abort(echo.writers)


async def _ends(reading: Awaitable[bytes]) -> bool:
    """Whether the other side ended the connection, in order or not."""
    try:
        return not await reading
    except ConnectionError:
        return True


async def _abort(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)  # they close in the loop's next round


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.close()


@pytest.fixture
def proxy(network: Network, first: Echo) -> Proxy:
    return network.proxy(free_port(), first.port)


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def says(self, line: bytes) -> bytes:
        self.writer.write(line)
        return await self.reader.readline()

    async def is_mute(self, line: bytes) -> bool:
        """Whether no answer comes for a moment."""
        try:
            async with asyncio.timeout(MUTE_S):
                await self.says(line)
        except TimeoutError:
            return True
        return False


@pytest.fixture
async def connect(proxy: Proxy) -> AsyncIterator[Callable[[], "asyncio.Future[Client]"]]:
    made: list[Client] = []

    async def connected() -> Client:
        made.append(Client(*await asyncio.open_connection(LOOPBACK, proxy.port)))
        return made[-1]

    yield lambda: asyncio.ensure_future(connected())
    await _abort([client.writer for client in made])


Connect = Callable[[], "asyncio.Future[Client]"]


async def test_it_passes_both_ways(connect: Connect) -> None:
    assert await (await connect()).says(b"hello\n") == b"first hello\n"


async def test_a_cut_ends_open_connections_and_takes_new_ones(proxy: Proxy, connect: Connect) -> None:
    client = await connect()
    await client.says(b"hello\n")
    proxy.cut()
    assert await _ends(client.says(b"again\n"))
    assert await (await connect()).says(b"hello\n") == b"first hello\n"


async def test_a_flip_leads_new_connections_elsewhere(proxy: Proxy, connect: Connect, second: Echo) -> None:
    old = await connect()
    await old.says(b"hello\n")
    proxy.flip(second.port)
    assert await (await connect()).says(b"hello\n") == b"second hello\n"
    assert await old.says(b"again\n") == b"first again\n"


async def test_answers_that_are_stalled_come_once_it_is_healed(proxy: Proxy, connect: Connect, first: Echo) -> None:
    client = await connect()
    await client.says(b"hello\n")
    proxy.stall("to_client")
    assert await client.is_mute(b"asked\n")
    assert first.received == [b"hello\n", b"asked\n"]
    proxy.heal()
    assert await client.reader.readline() == b"first asked\n"


async def test_requests_that_are_stalled_do_not_arrive(proxy: Proxy, connect: Connect, first: Echo) -> None:
    client = await connect()
    await client.says(b"hello\n")
    proxy.stall("to_server")
    assert await client.is_mute(b"asked\n")
    assert first.received == [b"hello\n"]


async def test_a_black_hole_swallows_old_and_new_connections(proxy: Proxy, connect: Connect) -> None:
    old = await connect()
    await old.says(b"hello\n")
    proxy.black_hole()
    assert await old.is_mute(b"old\n")
    new = await connect()
    assert await new.is_mute(b"new\n")
    proxy.heal()
    assert await old.reader.readline() == b"first old\n"
    assert await new.reader.readline() == b"first new\n"


async def test_stranded_connections_stay_mute_while_new_ones_are_served(
    proxy: Proxy, connect: Connect, second: Echo
) -> None:
    old = await connect()
    await old.says(b"hello\n")
    proxy.black_hole()
    proxy.flip(second.port)
    proxy.strand()
    assert await (await connect()).says(b"hello\n") == b"second hello\n"
    proxy.heal()
    assert await old.is_mute(b"old\n")


async def test_a_delay_counts_for_each_way(proxy: Proxy, connect: Connect) -> None:
    client = await connect()
    proxy.delay(0.1)
    began = time.monotonic()
    await client.says(b"hello\n")
    assert time.monotonic() - began >= 0.2


async def test_the_same_seed_stalls_the_same_chunks(proxy: Proxy) -> None:
    def drawn() -> list[float]:
        proxy.delay(0, stalls=0.5, stall_s=3, seed=7)
        return [proxy._delay() for _ in range(20)]

    assert drawn() == drawn()
    assert set(drawn()) == {0, 3}


async def test_a_server_that_is_away_ends_the_connection(network: Network) -> None:
    proxy = network.proxy(free_port(), free_port())
    reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
    writer.write(b"hello\n")
    assert await _ends(reader.read())
    await _abort([writer])
