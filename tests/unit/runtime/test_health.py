import socket
import time

import httpx
import pytest

from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.runtime.health import Health, health_server


@pytest.fixture
def health() -> Health:
    return Health()


async def test_readiness_says_why_it_is_not_ready(health: Health) -> None:
    async def away() -> None:
        raise RetryLater("PostgreSQL does not answer")

    health.add_check("postgres", away)
    async with health_server(health, "127.0.0.1", 0).serving() as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/readyz")
        assert answer.status_code == 503
        assert answer.json()["problems"] == {"postgres": "PostgreSQL does not answer"}
        alive = await client.get(f"http://127.0.0.1:{port}/livez")
        assert alive.status_code == 200


async def test_a_stopping_process_is_not_ready(health: Health) -> None:
    assert await health.readiness_problems() == {}
    health.stopping = True
    assert await health.readiness_problems() == {"process": "shutting down"}


async def test_a_loop_that_stops_moving_is_not_alive(health: Health) -> None:
    health.expect_progress("relay", within_s=0.0)
    async with health_server(health, "127.0.0.1", 0).serving() as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/livez")
        assert (answer.status_code, answer.json()["stuck"]) == (503, ["relay"])
        health.expect_progress("relay", within_s=60.0)
        health.note_progress("relay")
        assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200


async def test_a_loop_that_rests_stays_alive_while_others_wait_for_a_dependency(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    health.expect_progress("rests", within_s=60)
    health.expect_progress("waits", within_s=60)
    health.rest("rests")
    health.note_progress_of_all()
    in_an_hour = time.monotonic() + 3600
    monkeypatch.setattr(time, "monotonic", lambda: in_an_hour)
    assert health.stuck_loops() == ["waits"]


async def test_metrics_are_openmetrics(health: Health) -> None:
    async with health_server(health, "127.0.0.1", 0).serving() as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
async def test_every_address_means_those_of_both_families(health: Health, address: str) -> None:
    async with health_server(health, "::", 0).serving() as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://{address}:{port}/livez")
        assert answer.status_code == 200


async def test_a_port_that_is_taken_in_one_family_is_an_error(health: Health) -> None:
    async with health_server(health, "127.0.0.1", 0).serving() as port:
        with pytest.raises(ConfigurationError, match=str(port)):
            async with health_server(health, "::", port).serving():
                pass


async def test_a_taken_port_is_an_error_and_not_a_hang(health: Health) -> None:
    async with health_server(health, "127.0.0.1", 0).serving() as port:
        with pytest.raises(ConfigurationError, match=str(port)):
            async with health_server(health, "127.0.0.1", port).serving():
                pass


async def test_answers_do_not_wait_until_the_client_has_acknowledged_what_came_before(health: Health) -> None:
    server = health_server(health, "127.0.0.1", 0)
    async with server.serving() as port, httpx.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{port}/livez")
        [connection] = server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
