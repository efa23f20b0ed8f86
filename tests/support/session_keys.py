"""A worker's way of issuing keys of sessions, and agents' processes that ask for them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from flotilla.agent.session_keys import IssuedKeyring
from flotilla.encryption import KeyFile, Keyring
from flotilla.postgres import Pool, open_pool
from flotilla.runtime import http_server
from tests.support.postgres import agent_dsn, dsn_beside
from workflow_worker.session_keys import SessionKeyIssuer, make_session_keys_app

_REGISTER = """
INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, in_flight, input_schema,
    output_schema, timeout_s, public_key)
VALUES ($1, $2, '1', 'flotilla.tasks.' || $1, $1 || '-agents', 1, 0, '{}', '{}', 5, $3)
"""


@asynccontextmanager
async def issuing(pool: Pool, key_file: Path) -> AsyncIterator[str]:
    """The address where a worker in the database of `pool` issues keys."""
    keyring = Keyring(KeyFile(key_file), writes=True)
    dsn = await dsn_beside(pool, "flotilla_worker")
    async with open_pool(dsn, application="worker", keyring=keyring) as own, serving(own, keyring) as url:
        yield url


@asynccontextmanager
async def serving(pool: Pool, keyring: Keyring) -> AsyncIterator[str]:
    """The address where keys are issued over this pool of a worker."""
    server = http_server(make_session_keys_app(SessionKeyIssuer(pool, keyring)), "127.0.0.1", 0, grace_s=1)
    async with server.serving(lambda _: None) as port:
        yield f"http://127.0.0.1:{port}"


@dataclass(frozen=True)
class AgentProcess:
    """What an agent's process has: its role in the database, and a keyring without a root key."""

    pool: Pool
    keyring: IssuedKeyring

    async def register(self, name: str, public_key: bytes | None = None) -> None:
        """Enter a public key, else that of this process, into the list of the fleet's agents."""
        key = public_key or self.keyring.public_key
        await self.pool.execute(_REGISTER, name, (key or b"").hex()[:8], key)


@asynccontextmanager
async def agent_process(
    pool: Pool, url: str, name: str = "adder", *, registers: bool = True
) -> AsyncIterator[AgentProcess]:
    """A process of the agent, which asks for keys at `url` once."""
    keyring = IssuedKeyring(url, writes=True, waits_s=())
    async with open_pool(await agent_dsn(pool, name), application=name, keyring=keyring) as own:
        process = AgentProcess(own, keyring)
        if registers:
            await process.register(name)
        yield process
