"""A TCP proxy that can lose the answers of the other side, as a network does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Passes bytes on. While `deaf` is set, what the server answers is lost and the client's connection breaks; with
    `lose_next` that happens once."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.port = 0
        self.deaf = False
        self.lose_next = False
        self.lost = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """For Redis clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        out = asyncio.create_task(self._pass(reader, server_writer, lossy=False))
        back = asyncio.create_task(self._pass(server_reader, writer, lossy=True))
        self._tasks |= {out, back}
        await asyncio.wait([out, back], return_when=asyncio.FIRST_COMPLETED)
        for end in (out, back):
            end.cancel()
        server_writer.close()
        writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lossy: bool) -> None:
        while chunk := await reader.read(65536):
            if lossy and (self.deaf or self.lose_next):
                self.lost += 1
                self.lose_next = False
                return
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def proxy(target_port: int) -> AsyncIterator[Proxy]:
    """A proxy before `target_port` on loopback, as long as the block."""
    made = Proxy(target_port)
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in made._tasks:
            task.cancel()
        await asyncio.gather(*made._tasks, return_exceptions=True)
