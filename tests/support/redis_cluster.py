"""A Redis in cluster mode, which Flotilla refuses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from flotilla_devstack.ports import free_port
from flotilla_devstack.servers.redis import find_redis


@asynccontextmanager
async def redis_cluster(folder: Path) -> AsyncIterator[str]:
    """The URL of one node; it may not answer yet."""
    port = free_port()
    ports = ("--port", str(port), "--cluster-port", str(free_port()))
    options = (*ports, "--cluster-enabled", "yes", "--save", "", "--dir", str(folder))
    server = await asyncio.create_subprocess_exec(find_redis("redis"), *options, stdout=asyncio.subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        await server.wait()
