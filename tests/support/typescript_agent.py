"""The contract's agent in TypeScript, `agent/fleet/contract.mjs` of the npm packages, on its sidecar and servers."""

import asyncio
import fcntl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from flotilla.agent.sidecar.service import serve_sidecar_workers
from flotilla.agent.sidecar.settings import SidecarSettings
from flotilla.postgres import Pool
from flotilla.runtime import Runtime
from tests.support.postgres import agent_dsn
from tests.support.tickets import PUBLIC_KEY_FILE

PACKAGES = Path(__file__).parents[2] / "clients/typescript"
PROGRAM = ("node", str(PACKAGES / "agent/fleet/contract.mjs"))
NAME = "contract"


@cache
def build() -> None:
    """Compile the package, once for all processes that need it."""
    sources = [PACKAGES / "package-lock.json", *sorted((PACKAGES / "agent/src").rglob("*.ts"))]
    digest = sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    (PACKAGES / "agent/dist").mkdir(exist_ok=True)
    with (PACKAGES / "agent/dist/.built").open("a+") as built:
        fcntl.flock(built, fcntl.LOCK_EX)
        built.seek(0)
        if built.read() == digest:
            return
        command = [str(PACKAGES / "npm"), "build-agent"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        built.truncate(0)
        built.write(digest)


async def variables(pool: Pool, redis_url: str, **options: Any) -> dict[str, Any]:
    """The settings of a sidecar in the database of `pool`."""
    return {
        "postgres_dsn": await agent_dsn(pool, NAME),
        "redis_url": redis_url,
        "ticket_public_key_file": PUBLIC_KEY_FILE,
        "approval_policy": "builtin:local",
        "agent_name": NAME,
        "bus_min_idle_ms": 400,
        "drain_s": 5.0,
        **options,
    }


@asynccontextmanager
async def sidecar(
    pool: Pool, redis_url: str, *, command: Sequence[str] = PROGRAM, **options: Any
) -> AsyncIterator[Runtime]:
    """A sidecar in this process with its program, as long as the block."""
    build()
    settings = SidecarSettings(**await variables(pool, redis_url, **options))
    runtime = Runtime(f"{NAME}-agent")
    work = asyncio.create_task(serve_sidecar_workers(command, settings, runtime))
    try:
        yield runtime
    finally:
        runtime.request_stop("the test is over")
        await work
