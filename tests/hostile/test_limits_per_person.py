"""One person, or one service, that wants more than its share: with many requests at once, and in many names."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from flotilla.contracts.ids import new_id, utc_now
from flotilla.contracts.names import token_budget_name
from gateway.auth.on_behalf import HEADER
from tests.hostile.shop import granted
from tests.integration.gateway.conftest import Replica
from tests.support.gateway import RunningGateway

AT_ONCE = 50
USED = "INSERT INTO flotilla.token_budgets (tenant_id, scope, used) VALUES ('acme', '{}', 1000)"


async def service(gateway: RunningGateway, *people: str) -> list[httpx.AsyncClient]:
    """Clients of one service that acts for each of `people`; "" is the service in its own name."""
    root = await gateway.client_of("root", "admin", person=True)
    key = (await granted(root, "shop", ["operator"])).json()["key"]
    clients = [gateway.client(key) for _ in people]
    for client, person in zip(clients, people, strict=True):
        client.headers.update({HEADER: person} if person else {})
    return clients


async def start(client: httpx.AsyncClient, number: int) -> httpx.Response:
    """Start a run, or every second time a task."""
    if number % 2:
        return await client.post("/v1/tasks", json={"steps": ["write"], "input": {}})
    return await client.post(f"/v1/sessions/{new_id()}/runs", json={"query": "What is it?"})


async def started(clients: Sequence[httpx.AsyncClient], count: int = AT_ONCE) -> list[list[httpx.Response]]:
    """Send `count` requests for each of the clients, all at once."""
    answers = await asyncio.gather(*(start(client, number) for number in range(count) for client in clients))
    return [list(answers[place :: len(clients)]) for place in range(len(clients))]


def accepted(answers: Sequence[httpx.Response], limit: str) -> int:
    """How many were let in; every other says which limit is reached, and when to come back."""
    for answer in answers:
        if answer.status_code != 202:
            document = answer.json()
            assert (answer.status_code, document["code"], document["limit"]) == (429, "too_many", limit), document
            assert limit in document["detail"]
            assert int(answer.headers["Retry-After"]) >= 1
    return Counter(answer.status_code for answer in answers)[202]


PER_PERSON, PER_SERVICE = "FLOTILLA_OPEN_RUNS_PER_PERSON", "FLOTILLA_OPEN_RUNS_PER_SERVICE"


async def test_of_many_runs_at_once_one_person_gets_their_share(replica: Replica) -> None:
    async with replica(open_runs_per_person=5) as one, replica(open_runs_per_person=5) as other:
        alice = await one.client_of("alice", "operator", person=True)
        hers = [alice, other.client(alice.headers["Authorization"].removeprefix("Bearer "))]
        answers = await started(hers, AT_ONCE // 2)
        assert accepted([*answers[0], *answers[1]], PER_PERSON) == 5
        bob = await one.client_of("bob", "operator", person=True)
        assert (await start(bob, 0)).status_code == 202


async def test_a_service_in_between_makes_no_other_person(replica: Replica) -> None:
    async with replica(open_runs_per_person=5) as gateway:
        alice = await gateway.client_of("alice", "operator", person=True)
        for_alice, in_other_letters, for_bob, itself = await service(gateway, "alice", "%61lice", "bob", "")
        answers = await started([alice, for_alice, in_other_letters], 17)
        assert accepted([one for each in answers for one in each], PER_PERSON) == 5
        assert accepted((await started([for_bob]))[0], PER_PERSON) == 5
        assert accepted((await started([itself]))[0], PER_SERVICE) == AT_ONCE


async def test_a_service_has_one_share_for_all_its_people(replica: Replica) -> None:
    async with replica(open_runs_per_person=5, open_runs_per_service=12) as gateway:
        clients = await service(gateway, *(f"person-{number}" for number in range(25)), "")
        answers = [one for each in await started(clients, 4) for one in each]
        assert accepted(answers, PER_SERVICE) == 12
        bob = await gateway.client_of("bob", "operator", person=True)
        assert (await start(bob, 0)).status_code == 202


async def test_what_ended_makes_room_and_what_is_hidden_counts(replica: Replica, unique: Callable[[str], str]) -> None:
    async with replica(open_runs_per_person=2) as gateway:
        alice = await gateway.client_of("alice", "operator", person=True)
        bob = await gateway.client_of("bob", "operator", person=True)
        session = unique("s")
        await alice.post("/v1/sessions", json={"session_id": session})
        await alice.patch(f"/v1/sessions/{session}/access", json={"add_writers": [{"name": "bob"}]})
        run = (await bob.post(f"/v1/sessions/{session}/runs", json={"query": "q"})).json()["run_id"]
        await alice.patch(f"/v1/sessions/{session}/access", json={"remove": [{"name": "bob"}]})
        assert (await bob.get(f"/v1/runs/{run}")).status_code == 404
        assert accepted((await started([bob]))[0], PER_PERSON) == 1
        await gateway.finish(run)
        assert accepted((await started([bob]))[0], PER_PERSON) == 1


async def test_a_repeated_request_is_answered_though_no_room_is_left(replica: Replica) -> None:
    async with replica(open_runs_per_person=1) as gateway:
        alice = await gateway.client_of("alice", "operator", person=True)
        body, headers = {"steps": ["write"], "input": {}}, {"Idempotency-Key": "k"}
        answers = await asyncio.gather(*(alice.post("/v1/tasks", json=body, headers=headers) for _ in range(AT_ONCE)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["task_id"] for answer in answers}) == 1
        assert accepted([await start(alice, 1)], PER_PERSON) == 0


async def test_a_tenant_has_a_share_of_open_runs_where_one_is_set(replica: Replica) -> None:
    async with replica(open_runs_per_tenant=7) as gateway:
        people = [await gateway.client_of(f"p{number}", "operator", person=True) for number in range(5)]
        answers = [one for each in await started(people, 10) for one in each]
        assert accepted(answers, "FLOTILLA_OPEN_RUNS_PER_TENANT") == 7
        eve = await gateway.client_of("eve", "operator", person=True, tenant="globex")
        assert (await start(eve, 0)).status_code == 202


async def test_requests_are_counted_for_the_person_and_for_the_service(replica: Replica) -> None:
    slow: dict[str, Any] = {"requests_per_s_per_person": 0.01, "requests_per_s_per_service": 0.01}
    async with replica(request_burst_per_person=5, request_burst_per_service=12, **slow) as gateway:
        alice = await gateway.client_of("alice", "operator", person=True)
        for_alice, for_bob, for_carol, itself = await service(gateway, "alice", "bob", "carol", "")

        async def asked(*clients: httpx.AsyncClient) -> Counter[tuple[int, str | None]]:
            answers = await asyncio.gather(*(client.get("/v1/runs") for _ in range(AT_ONCE) for client in clients))
            for answer in answers:
                if answer.status_code != 200:
                    assert int(answer.headers["Retry-After"]) > 60
            return Counter((one.status_code, one.json().get("limit")) for one in answers)

        assert (await asked(alice, for_alice))[200, None] == 5
        before = await asked(for_bob)
        assert before == {(200, None): 5, (429, "FLOTILLA_REQUESTS_PER_S_PER_PERSON"): AT_ONCE - 5}
        rest = await asked(for_carol, itself)
        # What alice did herself is not the service's; what it was refused for bob is neither.
        assert 12 - 5 - 5 <= rest[200, None] <= 12 - 5
        assert rest[429, "FLOTILLA_REQUESTS_PER_S_PER_SERVICE"] > 0
        dave = await gateway.client_of("dave", "viewer", person=True)
        assert (await dave.get("/v1/runs")).status_code == 200


@pytest.mark.parametrize(
    ("payer", "refused", "welcome"),
    [
        ("person", ("alice", "for alice"), ("bob", "for bob", "itself")),
        ("service", ("for alice", "for bob", "itself"), ("alice", "bob")),
        ("tenant", ("alice", "for bob", "itself"), ()),
    ],
)
async def test_who_has_used_the_days_tokens_starts_nothing_before_midnight(
    replica: Replica, payer: Any, refused: Sequence[str], welcome: Sequence[str]
) -> None:
    limits = {f"llm_tokens_per_{one}_day": 1000 for one in ("person", "service", "tenant")}
    async with replica(**limits) as gateway:
        clients = dict(zip(("for alice", "for bob", "itself"), await service(gateway, "alice", "bob", ""), strict=True))
        for name in ("alice", "bob"):
            clients[name] = await gateway.client_of(name, "operator", person=True)
        name = {"person": "user/flotilla/alice", "service": "shop", "tenant": ""}[payer]
        await gateway.as_superuser(USED.format(token_budget_name(payer, utc_now().date(), name)))
        yesterday = token_budget_name("person", datetime(2020, 1, 1, tzinfo=UTC).date(), "user/flotilla/bob")
        await gateway.as_superuser(USED.format(yesterday))
        for who in refused:
            answers = (await started([clients[who]], 4))[0]
            assert accepted(answers, f"FLOTILLA_LLM_TOKENS_PER_{payer.upper()}_DAY") == 0
            assert 1 <= int(answers[0].headers["Retry-After"]) <= 86_400
        for who in welcome:
            assert (await start(clients[who], 0)).status_code == 202
