"""Alice with a session of her own, and bob, who has no part in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from flotilla.contracts.identity import user_name
from tests.support.gateway import RunningGateway
from tests.support.operations import THINGS

ALICE = user_name("flotilla", "alice")
PRIVATE = (
    THINGS
    + f"""
UPDATE flotilla.sessions SET owner = '{ALICE}', visibility = 'private';
UPDATE flotilla.dead_letters SET session_id = 'acme-session';
UPDATE audit.requests SET session_id = 'acme-session';
"""
)
TABLES = """
SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE a.attname = 'session_id' AND c.relkind = 'r' AND c.relnamespace::regnamespace::text = ANY($1) ORDER BY 1
"""
SCHEMAS = ["flotilla", "audit"]
BOB = {"kind": "user", "name": "bob"}


@dataclass
class House:
    """Alice with a session of her own and a run in it; bob, who has every role but the operators' of all sessions."""

    gateway: RunningGateway
    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    session: str
    run: str

    async def share(self, client: httpx.AsyncClient | None = None, **change: Any) -> httpx.Response:
        return await (client or self.alice).patch(f"/v1/sessions/{self.session}/access", json=change)

    async def head(self) -> int:
        return int((await self.alice.get(f"/v1/sessions/{self.session}")).json()["head_seq"])

    async def ask(self, client: httpx.AsyncClient, session: str | None = None) -> httpx.Response:
        return await client.post(f"/v1/sessions/{session or self.session}/runs", json={"query": "And then?"})


@pytest.fixture
async def house(gateway: RunningGateway, unique: Callable[[str], str]) -> House:
    alice = await gateway.client_of("alice", "operator", person=True)
    bob = await gateway.client_of("bob", "operator", "viewer", person=True)
    session = unique("hers")
    started = await alice.post(f"/v1/sessions/{session}/runs", json={"query": "What do we pay the harbour master?"})
    return House(gateway, alice, bob, session, started.json()["run_id"])
