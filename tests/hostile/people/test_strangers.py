"""Somebody with whom a session was not shared guesses, starts, stops and searches."""

from tests.hostile.people.house import BOB, House


async def test_an_id_that_exists_answers_as_one_that_does_not(house: House) -> None:
    for path in (
        "sessions/{}",
        "sessions/{}/events",
        "sessions/{}/access",
        "runs/{}",
        "runs/{}/events",
        "runs/{}/steps",
    ):
        hers = house.run if path.startswith("runs") else house.session
        found, absent = [await house.bob.get(f"/v1/{path.format(one)}") for one in (hers, "no-such-id")]
        assert (found.status_code, absent.status_code) == (404, 404), path
        assert found.json()["detail"].replace(hers, "no-such-id") == absent.json()["detail"]


async def test_nothing_is_started_stopped_or_forked_in_it(house: House) -> None:
    head = await house.head()
    session = f"/v1/sessions/{house.session}"
    attempts = [
        await house.ask(house.bob),
        await house.bob.post(f"{session}/fork", json={"at_seq": 1}),
        await house.bob.post(f"{session}/rollback", json={"to_seq": 0}),
        await house.bob.post(f"/v1/runs/{house.run}/cancel"),
        await house.bob.post("/v1/sessions", json={"session_id": house.session}),
        await house.bob.post(
            "/v1/actions",
            json={"action": "echo", "description": "x", "args": {"text": "x"}, "session_id": house.session},
        ),
        await house.bob.post("/v1/tasks", json={"steps": ["research"], "input": {}, "session_id": house.session}),
        await house.bob.post(
            "/v1/orders",
            json={"order_id": "o-1", "user_id": "u", "amount": "1", "product_id": "p", "session_id": house.session},
        ),
        await house.share(house.bob, add_readers=[BOB]),
        await house.share(house.bob, owner={"subject": "bob"}),
    ]
    assert [attempt.status_code for attempt in attempts] == [404] * len(attempts), [one.text for one in attempts]
    assert await house.head() == head
    assert (await house.alice.get(f"/v1/runs/{house.run}")).json()["status"] == "pending"


async def test_no_filter_of_a_listing_finds_it(house: House) -> None:
    filters: list[tuple[str, dict[str, str]]] = [
        ("runs", {"session_id": house.session}),
        ("runs", {"user_id": "alice"}),
        ("runs", {"status": "pending"}),
        ("sessions", {"q": house.session}),
        ("sessions", {}),
        ("analytics/tools", {"session_id": house.session}),
    ]
    for path, params in filters:
        answer = await house.bob.get(f"/v1/{path}", params=params)
        assert answer.status_code == 200
        assert house.session not in answer.text.replace(str(answer.url), "")
        assert house.run not in answer.text
    assert house.run in (await house.alice.get("/v1/runs", params={"session_id": house.session})).text
