"""Operators of all sessions, owners, teams that share, and groups of a token."""

import asyncio
from collections.abc import Callable

import httpx

from tests.hostile.people.house import BOB, House
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_tokens import AUDIENCE, token
from tests.support.gateway import RunningGateway
from tests.support.oidc_provider import oidc_provider
from tests.support.operations import THINGS


async def test_operators_of_all_sessions_see_it_and_hand_it_over(house: House) -> None:
    root = await house.gateway.client_of("root", "admin")
    assert (await root.get(f"/v1/runs/{house.run}")).status_code == 200
    assert (await house.share(root, owner={"subject": "bob"})).status_code == 200
    assert (await house.share(house.alice, remove=[BOB])).status_code == 403
    assert (await house.share(house.bob, remove=[{"name": "alice"}])).status_code == 200
    assert (await house.alice.get(f"/v1/sessions/{house.session}")).status_code == 404
    events = (await house.bob.get(f"/v1/sessions/{house.session}/events")).json()["events"]
    told = [(one["source"], one["data"]["change"], one["data"]["details"]["by"]) for one in events[-3:]]
    assert told == [
        ("/gateway", "owner_changed", "root"),
        ("/gateway", "access_changed", "root"),
        ("/gateway", "access_changed", "bob"),
    ]


async def test_a_session_of_the_former_version_stays_the_tenants_until_it_has_an_owner(gateway: RunningGateway) -> None:
    await gateway.as_superuser(THINGS)
    bob, root = await gateway.client_of("bob", "operator"), await gateway.client_of("root", "admin")
    path = "/v1/sessions/acme-session/access"
    access = (await bob.get(path)).json()
    assert (access["owner"], access["visibility"], access["may_share"]) == (None, "tenant", False)
    assert (await bob.patch(path, json={"owner": {"subject": "bob"}})).status_code == 403
    assert (await root.patch(path, json={"visibility": "private"})).status_code == 422
    closed = await root.patch(path, json={"visibility": "private", "owner": {"subject": "olga"}})
    assert closed.status_code == 200
    assert (await bob.get("/v1/runs/acme-run")).status_code == 404


async def test_a_team_that_shares_has_it_by_a_setting(replica: Replica, unique: Callable[[str], str]) -> None:
    async with replica(session_visibility="tenant", session_operators=()) as gateway:
        alice, bob = await gateway.client_of("alice", "operator"), await gateway.client_of("bob", "operator")
        root, session = await gateway.client_of("root", "admin"), unique("s")
        await alice.post("/v1/sessions", json={"session_id": session})
        assert (await bob.post(f"/v1/sessions/{session}/runs", json={"query": "q"})).status_code == 202
        await alice.patch(f"/v1/sessions/{session}/access", json={"visibility": "private"})
        for client in (bob, root):
            assert (await client.get(f"/v1/sessions/{session}")).status_code == 404


async def test_groups_are_the_tokens_and_a_name_counts_with_its_issuer(
    replica: Replica, unique: Callable[[str], str]
) -> None:
    with oidc_provider() as provider:
        async with replica(
            oidc_issuer=provider.url, oidc_audience=AUDIENCE, oidc_groups_claim="realm.groups"
        ) as gateway:

            def person(subject: str, *groups: object) -> httpx.AsyncClient:
                return gateway.client(token(provider, sub=subject, roles=["operator"], realm={"groups": list(groups)}))

            session, group = unique("s"), {"kind": "group", "name": "support"}
            alice = person("alice")
            await alice.post("/v1/sessions", json={"session_id": session})
            path = f"/v1/sessions/{session}"
            assert (await alice.patch(f"{path}/access", json={"add_readers": [group]})).status_code == 200
            assert (await person("sue", "sales", "support").get(path)).status_code == 200
            outside = [
                person("bob", "sales"),
                person("support"),
                person("eve", ["support"], {"support": 1}, " support", "suppor\u200bt"),
                await gateway.client_of("alice", "operator", person=True),
                await gateway.client_of("support", "operator"),
            ]
            answers = await asyncio.gather(*(client.get(path) for client in outside))
            assert [answer.status_code for answer in answers] == [404] * len(outside)
