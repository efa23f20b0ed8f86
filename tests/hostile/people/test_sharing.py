"""Readers and writers have what their list gives them, as long as they are on it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from flotilla.bus import connect_redis
from flotilla.bus.live import LiveRunWriter
from flotilla.contracts.identity import user_name
from flotilla.postgres import Viewer, acting_as
from tests.hostile.people.house import BOB, House
from tests.integration.gateway.test_live_events import following
from tests.support.waiting import eventually


async def test_a_reader_reads_and_no_more(house: House) -> None:
    assert (await house.share(add_readers=[BOB])).status_code == 200
    assert (await house.bob.get(f"/v1/runs/{house.run}")).status_code == 200
    access = (await house.bob.get(f"/v1/sessions/{house.session}/access")).json()
    assert (access["may_write"], access["may_share"], access["owner"]["name"]) == (False, False, "alice")
    cancel = await house.bob.post(f"/v1/runs/{house.run}/cancel")
    await house.gateway.finish(house.run)
    head = await house.head()
    attempts = [
        cancel,
        await house.ask(house.bob),
        await house.bob.post(f"/v1/sessions/{house.session}/rollback", json={"to_seq": 0}),
        await house.bob.post(
            "/v1/actions",
            json={"action": "echo", "description": "x", "args": {"text": "x"}, "session_id": house.session},
        ),
        await house.share(house.bob, add_writers=[BOB]),
    ]
    assert [attempt.status_code for attempt in attempts] == [403] * len(attempts), [one.text for one in attempts]
    assert await house.head() == head


async def test_a_writer_asks_and_can_not_share(house: House) -> None:
    await house.share(add_writers=[BOB])
    await house.gateway.finish(house.run)
    asked = await house.ask(house.bob)
    assert asked.status_code == 202
    assert (await house.alice.get(f"/v1/runs/{asked.json()['run_id']}")).json()["user_id"] == "bob"
    assert (await house.share(house.bob, visibility="tenant")).status_code == 403
    with acting_as(Viewer(names=[user_name("flotilla", "bob")])), pytest.raises(asyncpg.InsufficientPrivilegeError):
        await house.gateway.rows(
            "UPDATE flotilla.sessions SET visibility = 'tenant' WHERE session_id = $1", house.session
        )


async def test_a_fork_is_lost_with_the_access_to_what_it_begins_with(house: House) -> None:
    await house.share(add_readers=[BOB])
    fork = (await house.bob.post(f"/v1/sessions/{house.session}/fork", json={"at_seq": 1})).json()["session_id"]
    events = f"/v1/sessions/{fork}/events"
    assert "harbour master" in (await house.bob.get(events)).text
    assert (await house.alice.get(events)).status_code == 200
    again = (await house.bob.post(f"/v1/sessions/{fork}/fork", json={"at_seq": 1})).json()["session_id"]
    assert (await house.share(remove=[BOB])).status_code == 200
    for session in (fork, again):
        assert (await house.bob.get(f"/v1/sessions/{session}/events")).status_code == 404
        assert (await house.bob.get(f"/v1/sessions/{session}/state")).status_code == 404
        assert (await house.ask(house.bob, session)).status_code == 404


@pytest.fixture
async def redis_feed(redis_url: str) -> AsyncIterator[LiveRunWriter]:
    async with connect_redis(redis_url) as redis:
        yield LiveRunWriter(redis)


async def test_an_open_stream_ends_with_the_access(house: House, redis_feed: LiveRunWriter) -> None:
    await house.share(add_readers=[BOB])
    live = await house.gateway.live(house.run)
    async with following(house.bob, house.run) as his, following(house.alice, house.run) as hers:
        await redis_feed.write_token(live, "public ", task_id="t", attempt=1)
        await eventually(lambda: "public " in his.text and "public " in hers.text, timeout_s=10)
        await house.share(remove=[BOB])
        await eventually(lambda: his.closed, timeout_s=5)
        await redis_feed.write_token(live, "secret", task_id="t", attempt=1)
        await eventually(lambda: "secret" in hers.text, timeout_s=10)
    assert ("secret" in his.text, "done" in his.kinds) == (False, False)
    assert (await house.bob.get(f"/v1/runs/{house.run}/events")).status_code == 404


async def test_names_that_hide_something_are_refused(house: House) -> None:
    for name in ("", " bob", "bob\u202e", "b\u200bob", "bob\n", "b" * 257, "bob\x00"):
        assert (await house.share(add_readers=[{"name": name}])).status_code == 422, name
    crowd = [{"name": f"n{number}"} for number in range(100)]
    assert (await house.share(add_readers=crowd)).status_code == 200
    assert (await house.share(add_readers=[BOB])).status_code == 422
    odd = [{"name": "group/flotilla/x", "issuer": "https://a/b%2Fc"}]
    access = (await house.share(remove=crowd, add_writers=odd)).json()
    assert [(one["issuer"], one["name"]) for one in access["writers"]] == [("https://a/b%2Fc", "group/flotilla/x")]
