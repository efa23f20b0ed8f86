"""Tenants: who governs them, what a suspension refuses and holds, and what is recorded."""

from collections.abc import Callable
from typing import Any

import httpx

from tests.integration.gateway.conftest import Gate, Replica, answering
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually

DOORS = (
    ("GET", "/v1/sessions", None),
    ("POST", "/v1/sessions/s/runs", {"query": "Why?"}),
    ("GET", "/openai/v1/models", None),
    ("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
    ("POST", "/a2a/workflows/rag", {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {}}),
    ("GET", "/v1/schedules", None),
)
"""One request of each kind of client."""
SUSPENDED = "is suspended since"


async def governing(gateway: RunningGateway) -> httpx.AsyncClient:
    """An administrator of the operator's tenant."""
    return await gateway.client_of("otto", "admin", person=True)


async def changes(client: httpx.AsyncClient, prefix: str = "tenant_") -> list[tuple[str, Any]]:
    events = (await client.get("/v1/sessions/flotilla:audit/events")).json()["events"]
    return [
        (event["data"]["change"], event["data"]["details"])
        for event in events
        if event["data"]["change"].startswith(prefix)
    ]


async def test_a_tenant_is_created_with_an_administrator_who_can_begin(gateway: RunningGateway) -> None:
    otto = await governing(gateway)
    body = {"tenant_id": "initech", "admin": "peter", "note": "contract 4711"}
    made = await otto.post("/v1/tenants", json=body)
    assert (made.status_code, made.json()["state"], made.json()["created_by"]) == (201, "active", "acme/otto")
    assert made.headers["cache-control"] == "no-store"
    peter = gateway.client(made.json()["admin_key"]["key"])
    me = (await peter.get("/auth/me")).json()
    assert me == {"subject": "peter", "tenant": "initech", "roles": ["admin"], "kind": "person"}
    assert (await peter.post("/v1/sessions", json={"session_id": "first"})).status_code == 201
    expected = [("tenant_created", {"tenant": "initech", "admin": "peter", "by": "acme/otto"})]
    assert await changes(peter) == await changes(otto) == expected
    assert (await otto.post("/v1/tenants", json=body)).status_code == 409
    listed = (await otto.get("/v1/tenants")).json()["tenants"]
    assert [(one["tenant_id"], one["note"]) for one in listed] == [("acme", ""), ("initech", "contract 4711")]
    shown = (await otto.get("/v1/tenants/initech")).json()
    assert (shown["people"], shown["active_keys"], shown["sessions"]) == (1, 1, 2)


async def test_tenants_are_listed_page_by_page(gateway: RunningGateway) -> None:
    otto = await governing(gateway)
    for number in range(5):
        await gateway.client_of("ada", "viewer", tenant=f"t-{number}")
    seen, cursor = [], None
    while True:
        page = (await otto.get("/v1/tenants", params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        seen += [one["tenant_id"] for one in page["tenants"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == ["acme", *(f"t-{number}" for number in range(5))]


async def test_only_administrators_of_the_operators_tenant_govern(gateway: RunningGateway) -> None:
    await gateway.client_of("ada", "viewer", tenant="globex")
    for role, tenant in (("admin", "globex"), ("operator", "acme")):
        other = await gateway.client_of(f"{role}-{tenant}", role, tenant=tenant, person=True)
        for path, body in (
            ("/v1/tenants", {"tenant_id": "initech", "admin": "peter"}),
            ("/v1/tenants/globex/suspend", {"reason": "r"}),
            ("/v1/tenants/globex/resume", None),
        ):
            assert (await other.post(path, json=body)).status_code == 403, (role, path)
    assert (await (await governing(gateway)).get("/v1/tenants/globex")).json()["state"] == "active"


async def test_a_suspended_tenant_is_refused_at_every_door_with_the_reason_kept_for_operators(
    gateway: RunningGateway,
) -> None:
    otto = await governing(gateway)
    ada = await gateway.client_of("ada", "admin", tenant="globex", person=True)
    bob = await gateway.client_of("bob", "operator", person=True)
    body = {"sessions": ["s"], "scopes": ["read"]}
    assert (await ada.post("/v1/sessions", json={"session_id": "s"})).status_code == 201
    token = gateway.client((await ada.post("/v1/tokens", json=body)).json()["token"])
    assert (await token.get("/v1/sessions/s")).status_code == 200
    suspended = await otto.post("/v1/tenants/globex/suspend", json={"reason": "unpaid bill"})
    assert (suspended.status_code, suspended.json()["suspended_for"]) == (200, "unpaid bill")
    for method, path, sent in DOORS:
        answer = await ada.request(method, path, json=sent)
        assert (answer.status_code, SUSPENDED in answer.text) == (403, True), (path, answer.text)
        assert "unpaid" not in answer.text
    assert (await ada.get("/v1/sessions")).json()["code"] == "tenant_suspended"
    assert (await token.get("/v1/sessions/s")).status_code == 403
    assert (await bob.get("/v1/sessions")).status_code == 200
    assert (await otto.post("/v1/tenants/globex/suspend", json={"reason": "again"})).status_code == 409
    assert (await otto.post("/v1/tenants/globex/resume")).json()["state"] == "active"
    assert (await ada.get("/v1/sessions")).status_code == 200
    assert (await otto.post("/v1/tenants/globex/resume")).status_code == 409
    expected = [
        ("tenant_suspended", {"tenant": "globex", "reason": "unpaid bill", "finish_runs": False, "by": "acme/otto"}),
        ("tenant_resumed", {"tenant": "globex", "by": "acme/otto"}),
    ]
    assert await changes(ada) == await changes(otto) == expected


async def test_nobody_of_a_suspended_tenant_logs_in(replica: Replica) -> None:
    async with replica(console_key_login=True) as gateway:
        key = await gateway.key("carol", ["admin"], tenant="globex")
        headers = {"X-Flotilla-Console": "1", "Origin": gateway.url}
        client = gateway.client()
        assert (await client.post("/auth/login", json={"key": key}, headers=headers)).status_code == 204
        assert (await client.get("/auth/me")).status_code == 200
        await (await governing(gateway)).post("/v1/tenants/globex/suspend", json={"reason": "r"})
        login = await client.post("/auth/login", json={"key": key}, headers=headers)
        assert (login.status_code, login.json()["code"]) == (403, "tenant_suspended")
        assert (await client.get("/auth/me")).status_code == 403


async def test_another_replica_knows_within_two_seconds(gateway: RunningGateway, replica: Replica) -> None:
    otto = await governing(gateway)
    key = await gateway.key("ada", ["viewer"], tenant="globex")
    async with replica() as other:
        ada = other.client(key)
        assert (await ada.get("/v1/sessions")).status_code == 200
        await otto.post("/v1/tenants/globex/suspend", json={"reason": "r"})

        async def refused() -> bool:
            return (await ada.get("/v1/sessions")).status_code == 403

        await eventually(refused, 2)


async def test_an_open_stream_of_a_suspended_tenant_ends(gateway: RunningGateway) -> None:
    otto = await governing(gateway)
    ada = await gateway.client_of("ada", "operator", tenant="globex", person=True)
    run = (await ada.post("/v1/sessions/s/runs", json={"query": "Why?"})).json()["run_id"]
    async with ada.stream("GET", f"/v1/runs/{run}/events") as stream:
        await otto.post("/v1/tenants/globex/suspend", json={"reason": "r"})
        received = b"".join([chunk async for chunk in stream.aiter_bytes()])
    assert b"event: done" not in received


async def test_the_operators_own_tenant_and_one_that_nobody_knows_are_not_suspended(gateway: RunningGateway) -> None:
    otto = await governing(gateway)
    own = await otto.post("/v1/tenants/acme/suspend", json={"reason": "r"})
    assert (own.status_code, "nobody could resume" in own.text) == (422, True)
    assert (await otto.post("/v1/tenants/nobody/suspend", json={"reason": "r"})).status_code == 404
    assert [one["tenant_id"] for one in (await otto.get("/v1/tenants")).json()["tenants"]] == ["acme"]


async def test_the_work_of_a_suspended_tenant_waits_finishes_or_goes_on(
    gateway: RunningGateway, *, redis_url: str, temporal_address: str, gate: Gate, unique: Callable[[str], str]
) -> None:
    otto = await governing(gateway)
    ada = await gateway.client_of("ada", "operator", tenant="globex", person=True)
    session = unique("s")
    active = (await ada.post(f"/v1/sessions/{session}/runs", json={"query": "First?"})).json()["run_id"]
    enqueue = {"query": "Second?", "if_active": "enqueue"}
    queued = (await ada.post(f"/v1/sessions/{session}/runs", json=enqueue)).json()["run_id"]
    await otto.post("/v1/tenants/globex/suspend", json={"reason": "r"})
    gate.is_open.set()
    statuses = "SELECT status FROM flotilla.runs WHERE session_id = $1 ORDER BY created_at"

    async def until(*expected: str) -> None:
        async def they_are() -> bool:
            return [row[0] for row in await gateway.rows(statuses, session, tenant="globex")] == [*expected]

        await eventually(they_are, 60)

    async with answering(gateway, redis_url, temporal_address, gate):
        await until("running", "queued")
        bob = await gateway.client_of("bob", "operator", person=True)
        mine = await bob.post(f"/v1/sessions/{unique('s')}/runs", json={"query": "Mine?", "wait_s": 30})
        assert mine.json()["status"] == "success"
        await until("running", "queued")
        assert await gateway.rows("SELECT 1 FROM flotilla.delegations", tenant="globex") == [], "nothing is given out"
        await otto.post("/v1/tenants/globex/resume")
        await otto.post("/v1/tenants/globex/suspend", json={"reason": "it moves", "finish_runs": True})
        assert (await ada.get(f"/v1/runs/{active}")).status_code == 403
        await until("success", "queued")
        shown = (await otto.get("/v1/tenants/globex")).json()
        assert (shown["open_runs"], shown["queued_runs"], shown["finishes_runs"]) == (0, 1, True)
        await otto.post("/v1/tenants/globex/resume")
        await until("success", "success")
    assert (await ada.get(f"/v1/runs/{queued}")).json()["status"] == "success"
    events = (await ada.get(f"/v1/sessions/{session}/events")).json()["events"]
    asked = [one["data"]["content"] for one in events if one["data"].get("role") == "user"]
    assert asked == ["First?", "Second?"]
