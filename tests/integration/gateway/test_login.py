"""Login to the console by key, and what the cookie is worth then."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from gateway.retention import RetentionJob
from tests.integration.gateway.conftest import Replica
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually

OURS = {"X-Flotilla-Console": "1", "Sec-Fetch-Site": "same-origin"}


async def login(gateway: RunningGateway, key: str) -> httpx.AsyncClient:
    """A browser that is logged in: it has the cookie and nothing else."""
    browser = gateway.client()
    answer = await browser.post("/auth/login", json={"key": key}, headers=OURS)
    assert answer.status_code == 204, answer.text
    return browser


@pytest.fixture
async def local(replica: Replica) -> AsyncIterator[RunningGateway]:
    """A gateway that takes keys, as on the local stack."""
    async with replica(console_key_login=True, key_cache_s=0.5) as running:
        yield running


async def test_a_key_opens_a_sign_in_that_is_worth_what_the_key_is(local: RunningGateway) -> None:
    browser = await login(local, await local.key("olga", ("operator", "approver"), person=True))
    assert (await browser.get("/auth/me")).json() == {
        "subject": "olga", "tenant": "acme", "roles": ["approver", "operator"], "kind": "person",
    }  # fmt: skip
    assert (await browser.get("/v1/runs")).status_code == 200
    assert (await browser.get("/v1/keys")).status_code == 403
    created = await browser.post("/v1/sessions", json={}, headers=OURS)
    assert (created.status_code, created.json()["user_id"]) == (201, "olga")


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(local: RunningGateway) -> None:
    key = await local.key("olga", ("viewer",))
    answer = await local.client().post("/auth/login", json={"key": key}, headers=OURS)
    (cookie,) = answer.headers.get_list("set-cookie")
    name_and_secret, *attributes = cookie.split("; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=28800"} <= set(attributes)
    assert "Secure" not in attributes
    assert key not in cookie
    assert answer.headers["cache-control"] == "no-store"
    secret = name_and_secret.partition("=")[2]
    for row in await local.rows("SELECT to_jsonb(s)::text AS text FROM flotilla.sign_ins AS s"):
        assert secret not in row["text"]
    behind_tls = await local.client().post(
        "/auth/login", json={"key": key}, headers={**OURS, "X-Forwarded-Proto": "https"}
    )
    assert behind_tls.headers["set-cookie"].startswith("__Host-flotilla_sign_in=")
    assert "Secure" in behind_tls.headers["set-cookie"].split("; ")


PLANTED = {
    "without the prefix": "flotilla_sign_in={0}",
    "with a prefix in another case": "__host-flotilla_sign_in={0}",
    "with a lesser prefix": "__Secure-flotilla_sign_in={0}",
    "without a name": "=__Host-flotilla_sign_in={0}",
    "behind a character that some parsers drop": "\u00a0__Host-flotilla_sign_in={0}",
}


@pytest.mark.parametrize("cookie", PLANTED.values(), ids=PLANTED)
async def test_a_cookie_that_a_neighbouring_host_can_plant_is_not_read(replica: Replica, cookie: str) -> None:
    address = "https://flotilla.example"
    async with replica(console_key_login=True, public_url=address) as gateway:
        secrets = {}
        for name in ("mallory", "ada"):
            body, here = {"key": await gateway.key(name, ("viewer",))}, {**OURS, "Origin": address}
            answer = await gateway.client().post("/auth/login", json=body, headers=here)
            secrets[name] = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]
        own, planted = f"__Host-flotilla_sign_in={secrets['ada']}", cookie.format(secrets["mallory"])
        for sent, is_ada in ((own, True), (planted, False), (f"{planted}; {own}", True), (f"{own}; {planted}", True)):
            answer = await gateway.client().get("/auth/me", headers=[(b"Cookie", sent.encode())])
            assert (answer.status_code == 200) == is_ada, sent
            assert not is_ada or answer.json()["subject"] == "ada", sent


async def test_a_request_that_changes_something_needs_the_consoles_header_and_this_origin(
    local: RunningGateway,
) -> None:
    browser = await login(local, await local.key("olga", ("operator", "admin"), person=True))
    own = {"Origin": local.url}
    for headers in (
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"X-Flotilla-Console": "1"},
        {**OURS, "Sec-Fetch-Site": "cross-site"},
        {**OURS, "Origin": "http://evil.example"},
    ):
        for method, path in (("POST", "/v1/sessions"), ("DELETE", "/v1/keys/k-1"), ("POST", "/auth/logout")):
            answer = await browser.request(method, path, headers=headers, json={} if method == "POST" else None)
            assert (answer.status_code, answer.json()["code"]) == (403, "cross_site"), (method, path, headers)
            assert answer.headers["content-type"] == "application/problem+json"
    assert await local.rows("SELECT 1 FROM flotilla.sessions") == []
    assert (await browser.post("/v1/sessions", json={}, headers={**own, "X-Flotilla-Console": "1"})).status_code == 201
    assert (await browser.get("/v1/runs", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 200


async def test_nobody_is_logged_in_by_another_sites_form(local: RunningGateway) -> None:
    key = await local.key("mallory", ("viewer",))
    answer = await local.client().post("/auth/login", json={"key": key}, headers={"Origin": "http://evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert "set-cookie" not in answer.headers


async def test_keys_and_tokens_need_no_header_since_no_browser_sends_them_by_itself(local: RunningGateway) -> None:
    client = await local.client_of("olga", "operator")
    assert (await client.post("/v1/sessions", json={})).status_code == 201
    client.cookies.set("flotilla_sign_in", "made-up")
    assert (await client.post("/v1/sessions", json={})).status_code == 201


async def test_wrong_keys_and_made_up_cookies_are_401(local: RunningGateway) -> None:
    for key in ("flo_" + "x" * 43, "x", "a.b.c"):
        answer = await local.client().post("/auth/login", json={"key": key}, headers=OURS)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert "set-cookie" not in answer.headers
    for secret in ("x", "x" * 300, await local.key("olga", ("viewer",))):
        browser = local.client()
        browser.cookies.set("flotilla_sign_in", secret)
        assert (await browser.get("/auth/me")).status_code == 401
        assert (await browser.get("/v1/runs")).status_code == 401


async def test_keys_can_not_log_in_where_that_is_off(gateway: RunningGateway) -> None:
    assert (await gateway.client().get("/auth/config")).json() == {
        "key_login": False, "oidc": False, "trace_url_template": None, "temporal_ui_url": None,
    }  # fmt: skip
    key = await gateway.key("olga", ("viewer",))
    answer = await gateway.client().post("/auth/login", json={"key": key}, headers=OURS)
    assert (answer.status_code, answer.json()["code"]) == (403, "key_login_off")
    assert (await gateway.client().get("/auth/oidc/start")).status_code == 404
    assert (await gateway.client().get("/auth/oidc/callback")).status_code == 404


async def test_a_logout_ends_the_sign_in_at_every_replica(replica: Replica) -> None:
    options = {"console_key_login": True, "key_cache_s": 0.5}
    async with replica(**options) as one, replica(**options) as two:
        here = await login(one, await one.key("olga", ("viewer",)))
        there = two.client()
        there.cookies = httpx.Cookies(dict(here.cookies))
        stolen = one.client()
        stolen.cookies = httpx.Cookies(dict(here.cookies))
        assert (await there.get("/v1/runs")).status_code == 200
        out = await here.post("/auth/logout", headers=OURS)
        assert (out.status_code, dict(here.cookies)) == (204, {})
        assert (await stolen.get("/v1/runs")).status_code == 401

        async def refused() -> bool:
            return (await there.get("/v1/runs")).status_code == 401

        await eventually(refused, timeout_s=10)
        assert await one.rows("SELECT 1 FROM flotilla.sign_ins") == []
        assert (await here.post("/auth/logout", headers=OURS)).status_code == 204


async def test_a_revoked_key_takes_its_sign_ins_with_it(local: RunningGateway) -> None:
    browser = await login(local, await local.key("olga", ("viewer",)))
    assert (await browser.get("/v1/runs")).status_code == 200
    (row,) = await local.rows("SELECT key_id FROM flotilla.sign_ins")
    admin = await local.client_of("root", "admin")
    assert (await admin.delete(f"/v1/keys/{row['key_id']}")).status_code == 200
    assert (await browser.get("/v1/runs")).status_code == 401


async def test_a_new_login_ends_the_one_before_in_the_same_browser(local: RunningGateway) -> None:
    browser = await login(local, await local.key("olga", ("viewer",)))
    before = local.client()
    before.cookies = httpx.Cookies(dict(browser.cookies))
    key = await local.key("carol", ("viewer",))
    assert (await browser.post("/auth/login", json={"key": key}, headers=OURS)).status_code == 204
    assert (await browser.get("/auth/me")).json()["subject"] == "carol"
    assert (await before.get("/auth/me")).status_code == 401


async def test_a_sign_in_that_is_over_is_refused_and_forgotten(local: RunningGateway) -> None:
    browser = await login(local, await local.key("olga", ("viewer",)))
    kept = await login(local, await local.key("carol", ("viewer",)))
    past = "UPDATE flotilla.sign_ins SET expires_at = now() - interval '1 s' WHERE subject = 'olga'"
    await as_superuser(local, past)

    async def refused() -> bool:
        return (await browser.get("/auth/me")).status_code == 401

    await eventually(refused, timeout_s=10)
    await RetentionJob(local.pool).delete_expired()
    assert [row["subject"] for row in await local.rows("SELECT subject FROM flotilla.sign_ins")] == ["carol"]
    assert (await kept.get("/auth/me")).status_code == 200


async def test_idempotency_keys_are_forgotten_after_a_week(local: RunningGateway) -> None:
    client = await local.client_of("olga", "operator")
    for key in ("old", "new"):
        body = {"action": "echo", "description": "d", "risk_level": "low", "args": {"text": "t"}}
        answer = await client.post("/v1/actions", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 202, answer.text
    old = "UPDATE flotilla.idempotency_keys SET created_at = now() - interval '8 days' WHERE key = 'old'"
    await as_superuser(local, old)
    await RetentionJob(local.pool).delete_expired()
    assert [row["key"] for row in await local.rows("SELECT key FROM flotilla.idempotency_keys")] == ["new"]


async def test_sign_ins_of_one_tenant_are_not_seen_by_another(local: RunningGateway) -> None:
    await login(local, await local.key("olga", ("viewer",)))
    assert await local.rows("SELECT 1 FROM flotilla.sign_ins", tenant="globex") == []


async def test_too_many_requests_without_credentials_from_one_address_are_429(replica: Replica) -> None:
    async with replica(console_key_login=True, login_requests_per_s=0.5) as gateway:
        stranger = gateway.client()
        statuses = [(await stranger.get("/auth/config")).status_code for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        assert (await (await gateway.client_of("olga", "viewer")).get("/v1/runs")).status_code == 200


async def as_superuser(gateway: RunningGateway, statement: str) -> None:
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
