"""Two stacks that start at once keep apart, and what answers on a server's port is that server or nothing."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flotilla_devstack import RunningStack, Stack
from flotilla_devstack.errors import StartFailedError
from flotilla_devstack.ledger import ProcessLedger
from flotilla_devstack.servers.base import Home, LocalServer
from flotilla_devstack.servers.kafka import KafkaServer
from flotilla_devstack.servers.postgres import PostgresServer
from flotilla_devstack.servers.redis import RedisServer
from flotilla_devstack.servers.temporal import TemporalServer
from tests.integration.devstack.support import identity_of, listening_addresses

pytestmark = pytest.mark.timeout(180)
KINDS: dict[str, Callable[[Home], LocalServer]] = {
    "postgres": PostgresServer,
    "redis": RedisServer,
    "temporal": TemporalServer,
    "kafka": KafkaServer,
}


class SameNumbers(threading.local):
    """Gives every thread the same numbers."""

    def __init__(self) -> None:
        self.randrange = random.Random(7).randrange  # noqa: S311 - no secret


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Stack]]:
    """Two stacks, started at the same time, that draw the same ports."""
    monkeypatch.setattr("flotilla_devstack.ports.random", SameNumbers())
    stacks = [Stack(tmp_path / name, ("redis", "kafka")) for name in ("one", "two")]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Stack.start, stacks))
        yield stacks
    finally:
        for stack in stacks:
            stack.close()


def test_stacks_started_at_once_have_servers_and_ports_of_their_own(both: list[Stack]) -> None:
    ports = [port for stack in both for server in stack.servers.values() for port in server.ports.values()]
    assert len(set(ports)) == len(ports)
    for server in (server for stack in both for server in stack.servers.values()):
        assert server.state == "running"
        assert set(listening_addresses(identity_of(server.pid).process_tree())) == set(server.ports.values())


@pytest.mark.parametrize("kind", KINDS)
def test_server_whose_port_a_server_of_another_stack_holds_never_gets_ready(
    kind: str, stack: RunningStack, tmp_path: Path
) -> None:
    home = Home(tmp_path / "data", tmp_path / "log", dict(stack.ports(kind)), ProcessLedger(tmp_path / "ledger"))
    server = KINDS[kind](home)
    server.prepare(lambda _detail: None)
    server.start()
    try:
        with pytest.raises(StartFailedError, match="another process listens on its port"):
            server.wait_ready(30)
    finally:
        server.stop()
    assert server.state != "running"
