"""A Redis of each kind that the bus promises to work on, and a client on it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from flotilla.bus import Redis, connect_redis
from flotilla_devstack.servers.redis import FLAVOURS, Flavour, RedisServer
from tests.support.spare_redis import SpareServers


@pytest.fixture(params=FLAVOURS)
def any_server(spare_redis: SpareServers, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Redis 7.0, Redis 8 and Valkey, one after the other."""
    flavour: Flavour = request.param
    with spare_redis.server(flavour) as server:
        yield server


@pytest.fixture
async def any_redis(any_server: RedisServer) -> AsyncIterator[Redis]:
    """A client on a server of each kind."""
    async with connect_redis(any_server.url) as client:
        yield client


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client on a Redis of this test's own."""
    async with connect_redis(redis_url) as client:
        yield client
