"""A service that acts on behalf of people, against keys, names and doors that it has no right to."""

import asyncio
from collections.abc import Callable
from typing import Any

from flotilla.contracts.names import AUDIT_SESSION
from flotilla_cli.acting import check_on_behalf_of
from flotilla_cli.target import ConnectionOptions
from gateway.application import guarded_routes
from gateway.auth.on_behalf import HEADER
from tests.hostile.shop import ALL, Shop, granted
from tests.hostile.test_administrators import changes
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_governed import vote
from tests.integration.gateway.test_login import login
from tests.integration.gateway.test_tokens import AUDIENCE, token
from tests.support.oidc_provider import oidc_provider
from tests.support.operations import THINGS, operations_of
from tests.support.waiting import eventually

ECHO = {"action": "echo", "description": "A trial", "risk_level": "high", "args": {"text": "hello"}}


async def test_what_it_asks_for_somebody_is_theirs_and_names_both(shop: Shop, unique: Callable[[str], str]) -> None:
    session, for_alice = unique("s"), shop.acting("alice")
    run = (await shop.ask(for_alice, session)).json()["run_id"]
    assert (await for_alice.post(f"/v1/runs/{run}/cancel")).status_code == 202
    await for_alice.post(f"/v1/sessions/{session}/rollback", json={"to_seq": 1})
    await for_alice.post("/v1/tasks", json={"steps": ["research"], "input": {}, "session_id": session})
    order = {"order_id": unique("o"), "user_id": "u", "amount": "1", "product_id": "p", "session_id": session}
    await for_alice.post("/v1/orders", json=order)
    await for_alice.patch(f"/v1/sessions/{session}/access", json={"add_readers": [{"name": "carol"}]})
    fork = (await for_alice.post(f"/v1/sessions/{session}/fork", json={"at_seq": 1})).json()
    assert (fork["user_id"], fork["acted_by"]) == ("alice", "shop")
    access = (await shop.alice.get(f"/v1/sessions/{session}/access")).json()
    assert (access["owner"], access["may_share"]) == (
        {"kind": "user", "issuer": "flotilla", "name": "alice"},
        True,
    )
    for what in (f"runs/{run}", f"sessions/{session}"):
        seen = (await shop.alice.get(f"/v1/{what}")).json()
        assert (seen["user_id"], seen["acted_by"]) == ("alice", "shop")
    events = (await shop.alice.get(f"/v1/sessions/{session}/events")).json()["events"]
    made = {
        event["data"]["change"]: event["data"]["details"]
        for event in events
        if event["source"] == "/gateway" and event["type"] == "flotilla.session.state_change.v1"
    }
    assert set(made) >= {"run_started", "run_cancel_requested", "task_submitted", "order_placed", "access_changed"}
    for change, details in made.items():
        person = details.get("by") or details.get("user_id") or details.get("placed_by")
        named = (details.get("placed_by", person), details.get("acted_by"))
        assert change == "run_finished" or named == ("alice", "shop"), (change, details)
    # The service itself, and other people through it, see nothing of it.
    plain = (await granted(shop.root, "till", ["operator"])).json()["key"]
    for other in (shop.acting(key=plain), shop.acting("bob"), shop.acting("Alice"), shop.acting("bob", key=plain)):
        assert (await other.get(f"/v1/runs/{run}")).status_code == 404


async def test_what_alice_has_herself_is_hers_through_the_service_too(shop: Shop, unique: Callable[[str], str]) -> None:
    session = unique("s")
    run = (await shop.ask(shop.alice, session)).json()["run_id"]
    seen = (await shop.acting("alice").get(f"/v1/runs/{run}")).json()
    assert (seen["user_id"], seen["acted_by"]) == ("alice", None)
    assert (await shop.acting("%61lice").get(f"/v1/runs/{run}")).status_code == 200
    assert (await shop.acting("alice").get("/auth/me")).json() == {
        "subject": "alice",
        "tenant": "acme",
        "roles": ["operator", "viewer"],
        "kind": "service",
    }


WRONG: list[tuple[str | bytes, ...]] = [
    ("",),
    ("alice", "alice"),
    ("alice", "bob"),
    ("alice, bob",),
    ("alice,bob",),
    ("alice bob",),
    ("a\tb",),
    ("%",),
    ("%zz",),
    ("alice%",),
    ("alice%4",),
    ("%00",),
    ("alice%0A",),
    ("alice%0d%0aX: y",),
    ("%20alice",),
    ("alice%20",),
    ("alice%E2%80%AE",),
    ("a%E2%80%8Blice",),
    ("%C0%AFalice",),
    ("%ED%A0%80",),
    ("%FF",),
    ("e%CC%81ve",),
    ("é".encode(),),
    ("é".encode("latin-1"),),
    ("a" * 257,),
    ("%61" * 257,),
    ("a" * 20_000,),
    ("%F0%9F%98%80" * 257,),
]


async def test_a_subject_that_is_none_is_refused(shop: Shop) -> None:
    for values in WRONG:
        answer = await shop.acting(*values).get("/v1/sessions")
        assert (answer.status_code, answer.json()["code"]) == (400, "on_behalf_of_malformed"), (values, answer.text)
        assert HEADER in answer.json()["detail"]
    for fit in ("a" * 256, "auth0|123", "eve@example.com", "%C3%A9ve", "a%2Cb%25", "%F0%9F%98%80" * 256, "group/x"):
        assert (await shop.acting(fit).get("/v1/sessions")).status_code == 200, fit


async def test_nobody_acts_for_others_without_the_right(shop: Shop, replica: Replica) -> None:
    for subject, roles, person in (("plain", ALL, False), ("eve", ["operator"], True), ("boss", ["admin"], True)):
        key = await shop.gateway.key(subject, roles, person=person)
        answer = await shop.acting("alice", key=key).get("/v1/sessions")
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), subject
    assert (await shop.acting("alice", key="flo_unknown").get("/v1/sessions")).status_code == 401
    with oidc_provider() as provider:
        async with replica(oidc_issuer=provider.url, oidc_audience=AUDIENCE, console_key_login=True) as gateway:
            everything = gateway.client(token(provider, sub="eve", roles=ALL, acts_for=provider.url))
            everything.headers[HEADER] = "alice"
            assert (await everything.get("/v1/sessions")).status_code == 403
            browser = await login(gateway, shop.key)
            assert (await browser.get("/v1/sessions")).status_code == 200
            assert (await browser.get("/v1/sessions", headers={HEADER: "alice"})).status_code == 403


async def test_the_right_goes_to_services_and_ends_with_the_key(shop: Shop) -> None:
    refused = [
        await granted(shop.root, "eve", ["operator"], person=True),
        await granted(shop.root, "alice", ["operator"]),
        await granted(shop.root, "root", ["operator"]),
        await granted(shop.root, "voter", ["approver"]),
        await granted(shop.root, "x", ["operator"], people_of="a\u202eb"),
        await shop.root.post("/v1/keys", json={"name": "x", "roles": ["operator"], "people_of": "flotilla"}),
        await granted(shop.acting(), "again"),
        await granted(shop.acting("root"), "again"),
        await granted(shop.alice, "again"),
    ]
    assert [one.status_code for one in refused] == [422, 403, 403, 422, 422, 422, 201, 403, 403], [
        one.text for one in refused
    ]
    made = (await granted(shop.root, "till", ["operator"], people_of="https://login.example.com")).json()
    listed = {one["name"]: one["acts_for"] for one in (await shop.root.get("/v1/keys")).json()["keys"]}
    assert (listed["till"], listed["shop"], listed["alice"]) == ("https://login.example.com", "flotilla", None)
    recorded = [details for change, details in await changes(shop.gateway) if details.get("name") == "till"]
    assert [(one["acts_for"], one["by"]) for one in recorded] == [("https://login.example.com", "root")]
    till = shop.acting("alice", key=made["key"])
    assert (await till.get("/v1/sessions")).status_code == 200
    await shop.root.delete(f"/v1/keys/{made['key_id']}")
    assert (await till.get("/v1/sessions")).status_code == 401
    later = (await granted(shop.root, "later", ["operator"])).json()["key"]
    await shop.gateway.as_superuser("INSERT INTO flotilla.people VALUES ('acme', 'later', 'later', '{operator}')")
    assert (await shop.acting("alice", key=later).get("/v1/sessions")).status_code == 403


async def test_a_service_is_nobody_to_act_for(shop: Shop, unique: Callable[[str], str]) -> None:
    bot, session = await shop.gateway.client_of("bot", "operator"), unique("s")
    await shop.ask(bot, session)
    for subject in ("bot", "b%6Ft", "shop"):
        answer = await shop.acting(subject).get(f"/v1/sessions/{session}")
        assert answer.status_code == 403, (subject, answer.text)
    elsewhere = (await granted(shop.root, "till", people_of="https://login.example.com")).json()["key"]
    assert (await shop.acting("bot", key=elsewhere).get(f"/v1/sessions/{session}")).status_code == 404
    assert (await shop.acting("alice", key=elsewhere).get("/v1/sessions")).json()["sessions"] == []


async def test_only_what_people_do_with_their_sessions_is_done_for_them(shop: Shop) -> None:
    await shop.gateway.as_superuser(THINGS)
    await shop.root.post("/v1/keys", json={"name": "carol", "roles": ["viewer"]})
    document = (await shop.gateway.client().get("/openapi.json")).json()
    shut = {
        (method, route.path)
        for route in guarded_routes()
        for method in route.methods or ()
        if not route.access.for_others
    }
    for_root = shop.acting("root")
    checked = 0
    for operation in operations_of(document):
        described = document["paths"][operation.path][operation.method.lower()]
        if "security" not in described:
            continue
        answer = await operation.call(for_root)
        if (operation.method, operation.path) in shut:
            assert answer.status_code == 403, (operation.name, answer.text)
            checked += 1
        else:
            assert (answer.status_code < 500, described["x-on-behalf-of"]) == (True, True), operation.name
    assert checked > 30
    for what in ("keys", "signers", "approvals/{approval_id}/decision", "audit/rebuild", "outbox", "dead-letters"):
        assert any(path == f"/v1/{what}" for _, path in shut), what
    audit = f"/v1/sessions/{AUDIT_SESSION}"
    for path in (audit, f"{audit}/events", f"/v1/audit/export?session_id={AUDIT_SESSION}"):
        assert (await shop.acting().get(path)).status_code == 200, path
        assert (await for_root.get(path)).status_code == 403, path


async def test_the_person_has_no_role_that_the_key_lacks(shop: Shop, unique: Callable[[str], str]) -> None:
    session = unique("s")
    await shop.ask(shop.alice, session)
    for roles, asks, reads in ((["viewer"], 403, 200), (["viewer", "approver", "admin"], 403, 200)):
        key = (await granted(shop.root, unique("svc"), roles)).json()["key"]
        alice = shop.acting("alice", key=key)
        assert (await alice.get(f"/v1/sessions/{session}")).status_code == reads
        assert (await shop.ask(alice, unique("s"))).status_code == asks
    # A person who operates all sessions does not do so through a service, nor in the groups of the token.
    assert (await shop.root.get(f"/v1/sessions/{session}")).status_code == 200
    assert (await shop.acting("root").get(f"/v1/sessions/{session}")).status_code == 404
    assert (await shop.acting("root").get("/v1/approvals")).json()["approvals"] == []


async def test_one_persons_idempotency_keys_are_no_other_persons(shop: Shop, unique: Callable[[str], str]) -> None:
    headers = {"Idempotency-Key": unique("key")}
    clients = [shop.alice, shop.acting("alice"), shop.acting("bob"), shop.acting()]
    made = [
        await client.post("/v1/tasks", json={"steps": ["write"], "input": {}}, headers=headers) for client in clients
    ]
    assert len({one.json()["task_id"] for one in made}) == len(clients)
    again = await clients[1].post("/v1/tasks", json={"steps": ["write"], "input": {}}, headers=headers)
    assert again.json()["task_id"] == made[1].json()["task_id"]


async def test_nobody_approves_through_a_service_or_what_was_asked_for_them(working: Shop) -> None:
    for_alice, gateway = working.acting("alice"), working.gateway
    action = (await for_alice.post("/v1/actions", json=ECHO)).json()
    root = await gateway.client_of("root", "approver", person=True)
    bob = await gateway.client_of("bob", "approver", person=True)

    async def waiting() -> dict[str, Any] | None:
        found = await for_alice.get(f"/v1/approvals/{action['action_id']}")
        return found.json() if found.status_code == 200 else None

    approval = await eventually(waiting, timeout_s=20)
    assert (approval["requested_by"], approval["on_behalf_of"]) == ("shop", "alice")
    # Through the service nobody votes: neither she, nor somebody who may.
    for subject in ("alice", "bob", "root"):
        assert (await vote(working.acting(subject), approval)).status_code == 403, subject
    # She herself asked for it; who made the service's key may hold it; the service is no person.
    refused = [await vote(client, approval) for client in (working.alice, root, working.acting())]
    assert [one.json()["code"] for one in refused] == ["self_approval", "self_approval", "not_a_person"]
    assert (await vote(bob, approval)).status_code == 200

    async def done() -> dict[str, Any] | None:
        found = (await for_alice.get(f"/v1/actions/{action['action_id']}")).json()
        return found if found["status"] == "completed" else None

    ended = await eventually(done, timeout_s=20)
    assert [one["subject"] for one in ended["votes"]] == ["bob"]
    assert (ended["requested_by"], ended["on_behalf_of"]) == ("shop", "alice")
    events = (await working.alice.get(f"/v1/sessions/{action['session_id']}/events")).json()["events"]
    attempts = [one["data"]["details"] for one in events if one["data"].get("change") == "approval_attempted"]
    assert [one["subject"] for one in attempts] == ["alice", "root", "shop", "bob"]


async def test_the_doctor_says_whether_a_key_may_act_for_somebody_and_what_it_reaches(
    shop: Shop, unique: Callable[[str], str]
) -> None:
    async def doctor(subject: str, key: str) -> list[tuple[str, bool, str]]:
        connection = ConnectionOptions(url=shop.gateway.url, token=key, on_behalf_of=subject)
        findings = await asyncio.to_thread(check_on_behalf_of, connection, "admin")
        return [(one.name, one.ok, one.detail + one.hint) for one in findings]

    await shop.ask(shop.alice, unique("s"))
    await shop.ask(shop.acting("alice"), unique("s"))
    bob, shared = await shop.gateway.client_of("bob", "operator", person=True), unique("s")
    await shop.ask(bob, shared)
    await bob.patch(f"/v1/sessions/{shared}/access", json={"add_readers": [{"name": "alice"}]})
    await shop.ask(bob, unique("s"))
    found = await doctor("alice", shop.key)
    assert [(name, ok) for name, ok, _ in found] == [("key", True), ("right", True), ("roles", True), ("sees", True)]
    assert "shop, a service of tenant acme" in found[0][2]
    assert "operator, viewer: it reads, asks and starts" in found[2][2]
    assert found[3][2].startswith("3 sessions, 2 of these")
    viewer = (await granted(shop.root, "reader", ["viewer"])).json()["key"]
    assert "only reads" in (await doctor("alice", viewer))[2][2]
    plain = (await granted(shop.root, "till", ["operator"], may_act_for_others=False)).json()["key"]
    for subject, key, why in (("alice", plain, "may not act"), ("till", shop.key, "is a service")):
        *_, (name, ok, text) = await doctor(subject, key)
        assert (name, ok, why in text, "--may-act-for-others" in text) == ("right", False, True, True)
    [(name, ok, text)] = await doctor("alice", "flo_unknown")
    assert (name, ok) == ("key", False)


async def test_the_body_names_nobody_else_than_the_header(shop: Shop) -> None:
    for_alice = shop.acting("alice")
    assert (await for_alice.post("/v1/actions", json={**ECHO, "on_behalf_of": "bob"})).status_code == 422
    same = (await for_alice.post("/v1/actions", json={**ECHO, "on_behalf_of": "alice"})).json()
    action = (await for_alice.get(f"/v1/actions/{same['action_id']}")).json()
    assert (action["requested_by"], action["on_behalf_of"]) == ("shop", "alice")


async def test_the_same_subject_of_another_tenant_or_issuer_is_somebody_else(
    shop: Shop, replica: Replica, unique: Callable[[str], str]
) -> None:
    session = unique("s")
    await shop.ask(shop.acting("alice"), session)
    elsewhere = await shop.gateway.client_of("boss", "admin", tenant="globex")
    key = (await granted(elsewhere)).json()["key"]
    assert (await shop.acting("alice", key=key).get(f"/v1/sessions/{session}")).status_code == 404
    with oidc_provider() as provider:
        async with replica(oidc_issuer=provider.url, oidc_audience=AUDIENCE, oidc_tenant="acme") as gateway:
            root = await gateway.client_of("root", "admin", person=True)
            till = gateway.client((await granted(root, "till", ["operator"])).json()["key"])
            till.headers[HEADER] = "alice"
            run = (await shop.ask(till, unique("s"))).json()["run_id"]
            hers = gateway.client(token(provider, sub="alice", roles=["viewer"]))
            assert (await hers.get(f"/v1/runs/{run}")).json()["acted_by"] == "till"
            assert (await till.get(f"/v1/sessions/{session}")).status_code == 404
