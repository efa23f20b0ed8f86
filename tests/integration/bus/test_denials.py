"""What Redis denies its users is counted and logged, once, by whom."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from redis.exceptions import NoPermissionError
from structlog.testing import capture_logs

from flotilla.bus import Redis, connect_redis
from flotilla.bus.connection import execute_redis_command
from flotilla.bus.denials import MAX_ACL_LOG_ENTRIES, DenialMonitor
from flotilla.telemetry.metrics import REDIS_DENIED
from flotilla_devstack import RunningStack
from tests.support.redis_users import url_of


@pytest.fixture
async def watcher(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(await url_of(redis_url, "workflow-worker")) as client:
        yield client


@pytest.fixture
async def mallory(redis_url: str, unique: Callable[[str], str]) -> AsyncIterator[tuple[str, Redis]]:
    user = f"{unique('mallory')}-agent"
    async with connect_redis(await url_of(redis_url, user)) as client:
        yield user, client


async def denied(client: Redis, *command: str) -> None:
    with pytest.raises(NoPermissionError):
        await execute_redis_command(client, *command)


def count(user: str) -> float:
    return float(REDIS_DENIED.labels(user)._value.get())


async def test_each_denial_is_counted_and_logged_once(watcher: Redis, mallory: tuple[str, Redis]) -> None:
    (user, client), denials = mallory, DenialMonitor(watcher)
    await denied(client, "FLUSHALL")
    await denials.report_new_denials()
    assert count(user) == 0  # of before the first look
    await denied(client, "XADD", "flotilla.tasks.research", "*", "event", "{}")
    await denied(client, "XADD", "flotilla.tasks.research", "*", "event", "{}")
    await denied(client, "EVAL", "return 1", "0")
    await denied(client, "FLUSHALL")
    with capture_logs() as logs:
        await denials.report_new_denials()
        await denials.report_new_denials()
    assert count(user) == 4
    seen = {(one["reason"], one["denied"], one["times"]) for one in logs if one["user"] == user}
    assert seen == {("key", "flotilla.tasks.research", 2), ("command", "eval", 1), ("command", "flushall", 1)}


async def test_without_the_right_to_look_it_asks_once(mallory: tuple[str, Redis], watcher: Redis) -> None:
    user, client = mallory
    own, fleets = DenialMonitor(client), DenialMonitor(watcher)
    await fleets.report_new_denials()
    with capture_logs() as logs:
        await own.report_new_denials()
        await own.report_new_denials()
    await fleets.report_new_denials()
    assert [one["event"] for one in logs] == ["redis_denials_not_read"]
    assert count(user) == 1


async def test_a_flood_of_denials_hides_no_other(stack: RunningStack) -> None:
    """The log holds 128 entries: new ones drive the oldest away, and with them what they had counted."""
    redis = stack.extra_redis("falkordb")  # Redis 8
    async with connect_redis(redis.url) as admin:
        await execute_redis_command(admin, "ACL", "SETUSER", "eve", "on", ">secret", "~own*", "+get", "+client")
        async with connect_redis(redis.url.replace("//", "//eve:secret@")) as eve:
            denials = DenialMonitor(admin)
            for _ in range(5):
                await denied(eve, "FLUSHALL")
            await denials.report_new_denials()
            for number in range(MAX_ACL_LOG_ENTRIES):
                await denied(eve, "GET", f"other-{number}")
            for _ in range(3):
                await denied(eve, "FLUSHALL")
            with capture_logs() as logs:
                await denials.report_new_denials()
    assert ("flushall", 3) in {(one["denied"], one["times"]) for one in logs}


@pytest.mark.parametrize("refusal", ["unknown command 'ACL'", "unknown subcommand 'LOG'. Try ACL HELP."])
async def test_a_redis_without_such_a_log_is_asked_once(refusal: str) -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while head := await reader.readline():
            words = [(await reader.readline(), await reader.readline())[1] for _ in range(int(head[1:]))]
            is_acl = words[0] == b"ACL\r\n"
            asked += is_acl
            writer.write(f"-ERR {refusal}\r\n".encode() if is_acl else b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect_redis(f"redis://127.0.0.1:{port}/0") as client:
            denials = DenialMonitor(client)
            with capture_logs() as logs:
                await denials.report_new_denials()
                await denials.report_new_denials()
    assert asked == 1
    assert [one["event"] for one in logs] == ["redis_denials_not_read"]
