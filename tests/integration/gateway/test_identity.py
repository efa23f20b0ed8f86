import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import httpx

from gateway.application import guarded_routes
from gateway.auth.origin import CONSOLE_HEADER
from gateway.auth.principal import Role
from gateway.guard import STRANGERS_BODY_BYTES, TEXT_BODY_BYTES
from tests.integration.gateway.conftest import Replica
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually


async def made(admin: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await admin.post("/v1/keys", json={"name": "carol", "roles": ["viewer"], **body})
    assert answer.status_code == 201, answer.text
    key: dict[str, Any] = answer.json()
    return key


async def test_a_key_works_until_it_is_revoked_also_at_another_replica(replica: Replica) -> None:
    async with replica(key_cache_s=0.5) as one, replica(key_cache_s=0.5) as two:
        admin = await one.client_of("root", "admin")
        key = await made(admin)
        here, there = one.client(key["key"]), two.client(key["key"])
        assert (await here.get("/v1/runs")).status_code == 200
        assert (await there.get("/v1/runs")).status_code == 200
        revoked = await admin.delete(f"/v1/keys/{key['key_id']}")
        assert revoked.json()["revoked_at"]
        assert (await here.get("/v1/runs")).status_code == 401

        async def refused() -> bool:
            return (await there.get("/v1/runs")).status_code == 401

        await eventually(refused, timeout_s=5)
        assert (await admin.delete(f"/v1/keys/{key['key_id']}")).status_code == 200


async def test_an_expired_key_is_refused_at_once_however_long_it_is_remembered(replica: Replica) -> None:
    async with replica(key_cache_s=60) as gateway:
        admin = await gateway.client_of("root", "admin")
        soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
        carol = gateway.client((await made(admin, expires_at=soon))["key"])
        assert (await carol.get("/v1/runs")).status_code == 200

        async def refused() -> bool:
            return (await carol.get("/v1/runs")).status_code == 401

        await eventually(refused, timeout_s=8)


async def test_keys_are_stored_as_hashes_and_listed_without_secrets(gateway: RunningGateway) -> None:
    admin = await gateway.client_of("root", "admin")
    key = await made(admin, roles=["operator", "approver"], person=True)
    assert key["is_person"]
    listed = await admin.get("/v1/keys")
    assert key["key"] not in listed.text
    assert key["key_id"] in {one["key_id"] for one in listed.json()["keys"]}
    for row in await gateway.rows("SELECT to_jsonb(k)::text AS text FROM flotilla.api_keys AS k"):
        assert key["key"] not in row["text"]


async def test_keys_of_one_name_differ_by_how_they_begin_and_revoked_by_id(gateway: RunningGateway) -> None:
    admin = await gateway.client_of("root", "admin")
    first, second = [await made(admin, roles=["viewer"]) for _ in range(2)]
    listed = {key["hint"]: key for key in (await admin.get("/v1/keys")).json()["keys"] if key["name"] == first["name"]}
    assert len(listed) == 2
    found = next(key for hint, key in listed.items() if second["key"].startswith(hint))
    assert (found["key_id"], found["created_by"]) == (second["key_id"], "root")
    assert (await admin.delete(f"/v1/keys/{found['key_id']}")).status_code == 200
    assert (await gateway.client(first["key"]).get("/v1/runs")).status_code == 200
    assert (await gateway.client(second["key"]).get("/v1/runs")).status_code == 401
    by_name = await admin.delete(f"/v1/keys/{first['name']}")
    assert (by_name.status_code, "takes the id" in by_name.json()["detail"]) == (404, True)


async def test_a_repeated_request_for_a_key_makes_no_second_one(
    gateway: RunningGateway, unique: Callable[[str], str]
) -> None:
    admin, header = await gateway.client_of("root", "admin"), {"Idempotency-Key": unique("key")}
    body = {"name": "carol", "roles": ["viewer"]}
    first = await admin.post("/v1/keys", json=body, headers=header)
    again = await admin.post("/v1/keys", json=body, headers=header)
    assert (first.status_code, again.status_code) == (201, 409)
    assert again.json()["code"] == "key_made_before"
    assert len(await gateway.rows("SELECT 1 FROM flotilla.api_keys WHERE name = 'carol'")) == 1


async def test_keys_that_make_no_sense_are_422(gateway: RunningGateway) -> None:
    admin = await gateway.client_of("root", "admin")
    bodies: list[dict[str, Any]] = [
        {"roles": ["viewer"]}, {"name": "c", "roles": []}, {"name": "c", "roles": ["king"]},
        {"name": "c", "roles": ["viewer"], "expires_at": "2001-01-01T00:00:00Z"},
        {"name": "c", "roles": ["viewer"], "expires_at": "2099-01-01T00:00:00"},
        {"name": "c", "roles": ["viewer"], "subject": "root"},
    ]  # fmt: skip
    for body in bodies:
        assert (await admin.post("/v1/keys", json=body)).status_code == 422, body


async def test_a_tenant_beyond_its_rate_gets_429_and_others_do_not(replica: Replica) -> None:
    async with replica(requests_per_s=0.5, request_burst=3) as gateway:
        acme = await gateway.client_of("olga", "viewer")
        globex = await gateway.client_of("eve", "viewer", tenant="globex")
        statuses = [(await acme.get("/v1/runs")).status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert int((await acme.get("/v1/runs")).headers["Retry-After"]) >= 1
        assert (await globex.get("/v1/runs")).status_code == 200


async def test_bodies_that_are_too_large_too_deep_or_no_json_are_refused(operator: httpx.AsyncClient) -> None:
    async def send(body: bytes, media_type: str = "application/json") -> tuple[int, str]:
        answer = await operator.post("/v1/sessions", content=body, headers={"Content-Type": media_type})
        return answer.status_code, answer.json()["code"]

    assert await send(b'{"metadata": {"a": "' + b"x" * 3_000_000 + b'"}}') == (413, "too_large")
    assert await send(b'{"metadata": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}") == (422, "invalid")
    assert await send(b"[" * 100_000) == (422, "invalid")
    assert await send(b"{\xff}") == (422, "invalid")
    assert await send(b"a=b", "application/x-www-form-urlencoded") == (415, "not_json")
    assert await send(b'{"metadata": {"a": "\\ud800"}}') == (422, "invalid")


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(operator: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 100_000
            yield b"x" * 100_000

    answer = await operator.post("/v1/sessions", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


async def test_unknown_keys_are_refused_as_too_many_and_a_good_key_goes_on_working(replica: Replica) -> None:
    async with replica(failed_logins_per_minute=20, login_requests_per_s=1000, console_key_login=True) as gateway:
        good = await gateway.client_of("olga", "viewer")
        assert (await good.get("/v1/runs")).status_code == 200
        statuses = []
        for number in range(60):
            headers = {"Authorization": f"Bearer flo_unknown{number}", "X-Forwarded-For": f"203.0.113.{number}"}
            statuses.append((await gateway.client().get("/v1/runs", headers=headers)).status_code)
        assert statuses[:20] == [401] * 20
        assert statuses.count(429) >= 35
        login = await gateway.client().post(
            "/auth/login", json={"key": "flo_unknown"}, headers={CONSOLE_HEADER: "1", "Sec-Fetch-Site": "same-origin"}
        )
        assert login.status_code == 429
        assert int(login.headers["Retry-After"]) >= 1
        assert (await good.get("/v1/runs")).status_code == 200
        assert (
            await gateway.client().get("/v1/runs")
        ).status_code == 401  # a request without credentials is not an attempt


async def test_failures_count_for_the_address_that_a_trusted_proxy_names(replica: Replica) -> None:
    async with replica(failed_logins_per_minute=2, trusted_proxies=("127.0.0.1",)) as gateway:

        async def status_of(address: str) -> int:
            headers = {"Authorization": "Bearer flo_unknown", "X-Forwarded-For": address}
            return (await gateway.client().get("/v1/runs", headers=headers)).status_code

        assert [await status_of("203.0.113.1") for _ in range(4)] == [401, 401, 429, 429]
        assert await status_of("203.0.113.2") == 401


async def test_half_sent_requests_are_given_up(replica: Replica) -> None:
    async with replica(request_head_s=0.5, request_body_s=0.5, connections_per_address=150) as gateway:
        client = await gateway.client_of("olga", "operator")
        key = client.headers["Authorization"].encode()
        host, port = "127.0.0.1", int(gateway.url.rpartition(":")[2])
        heads = [
            b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\n",
            b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nAuthorization: " + key + b"\r\nContent-Length: 9\r\n\r\n{",
        ]
        held = [await asyncio.open_connection(host, port) for _ in range(120)]
        for number, (_, writer) in enumerate(held):
            writer.write(heads[number % 2])
        async with asyncio.timeout(20):
            answers = [await reader.read() for reader, _ in held]
        assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)
        assert (await client.get("/v1/runs")).status_code == 200
        for _, writer in held:
            writer.close()


async def test_a_route_reads_no_more_than_its_body_can_need(gateway: RunningGateway) -> None:
    admin = await gateway.client_of("ada", *get_args(Role))
    for route in guarded_routes():
        for method in (route.methods or set()) - {"GET"}:
            if route.access.form_bytes or route.access.free_json:
                continue
            size = TEXT_BODY_BYTES if route.body_field and route.access.roles else STRANGERS_BODY_BYTES
            path = re.sub("{[a-z_]+}", "x", route.path_format)
            answer = await admin.request(method, path, content=b'"' + b"x" * size + b'"')
            assert answer.status_code == 413, (method, path)


async def test_a_logout_full_of_brackets_and_quotes_is_refused_at_once(gateway: RunningGateway) -> None:
    anybody = gateway.client()
    answer = await anybody.post("/auth/logout", content=b"[]" * 65 + b'"' + b'\\"' * 20_000)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    answer = await anybody.post("/auth/logout", json={}, headers={CONSOLE_HEADER: "1", "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 204


async def test_before_its_database_the_gateway_is_not_ready_says_why_and_answers_503(replica: Replica) -> None:
    from tests.support.postgres import Database

    nowhere = Database("postgresql://postgres@127.0.0.1:1/none")
    async with replica(database=nowhere) as gateway:
        client = gateway.client("flo_" + "x" * 43)
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert "PostgreSQL does not answer" in ready.json()["problems"]["postgres"]
        assert (await client.get("/livez")).status_code == 200
        answer = await client.get("/v1/runs")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert answer.headers["content-type"] == "application/problem+json"


async def test_documents_are_loaded_once_and_found_and_bad_ones_refused(operator: httpx.AsyncClient) -> None:
    async def load(content: bytes, name: str = "a.md") -> httpx.Response:
        return await operator.post("/v1/documents", files={"file": (name, content, "text/markdown")})

    text = b"# Harbour\n\nDiesel is sold at pontoon C.\n"
    assert [(await load(text)).status_code, (await load(text)).status_code] == [201, 200]
    found = (await operator.get("/v1/documents/search", params={"q": "diesel pontoon", "k": 1})).json()["passages"]
    assert "pontoon C" in found[0]["text"]
    assert found[0]["source"]["uri"] == "a.md"
    unreadable = await load(b"\xff\xfe\x00\x01broken\x80", "b.md")
    assert unreadable.status_code == 422
    assert [d["uri"] for d in (await operator.get("/v1/documents")).json()["documents"]] == ["a.md"]
