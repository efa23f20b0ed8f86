"""A service that acts on behalf of people, and the people around it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.auth.on_behalf import HEADER
from tests.support.gateway import RunningGateway
from tests.support.worker import running_worker

ALL = ["viewer", "operator", "approver", "admin"]


@dataclass
class Shop:
    """A service that may act for others, with every role; alice, who also comes herself; the admin who made the key."""

    gateway: RunningGateway
    root: httpx.AsyncClient
    alice: httpx.AsyncClient
    key: str

    def acting(self, *named: str | bytes, key: str | None = None) -> httpx.AsyncClient:
        """The service's client with these values of the header, as they are."""
        headers = [(b"Authorization", f"Bearer {key or self.key}".encode())]
        headers += [(HEADER.encode(), one if isinstance(one, bytes) else one.encode()) for one in named]
        client = self.gateway.client()
        client.headers = httpx.Headers(headers)
        return client

    async def ask(self, client: httpx.AsyncClient, session: str) -> httpx.Response:
        return await client.post(f"/v1/sessions/{session}/runs", json={"query": "What is it?"})


async def granted(admin: httpx.AsyncClient, name: str = "shop", roles: list[str] = ALL, **more: Any) -> httpx.Response:
    return await admin.post("/v1/keys", json={"name": name, "roles": roles, "may_act_for_others": True, **more})


@pytest.fixture
async def shop(gateway: RunningGateway) -> Shop:
    root = await gateway.client_of("root", "admin", person=True)
    alice = await gateway.client_of("alice", "operator", "approver", person=True)
    return Shop(gateway, root, alice, (await granted(root)).json()["key"])


@pytest.fixture
async def working(shop: Shop, redis_url: str, temporal_address: str) -> AsyncIterator[Shop]:
    """The shop with a worker that carries out what is asked for."""
    async with running_worker(
        dsn=shop.gateway.database.dsn("flotilla_worker"),
        pool=shop.gateway.pool,
        redis_url=redis_url,
        temporal_address=temporal_address,
        task_queue=shop.gateway.settings.task_queue,
    ):
        yield shop
