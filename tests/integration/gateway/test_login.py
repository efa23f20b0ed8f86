"""Login to the console: by key, by OpenID provider, and what the cookie is worth then."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from flotilla_devstack.ports import free_port
from gateway.retention import RetentionJob
from tests.integration.gateway.conftest import Replica
from tests.support.gateway import RunningGateway
from tests.support.oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider, oidc_provider
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


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with oidc_provider() as running:
        yield running


@pytest.fixture
def with_provider(replica: Replica, provider: OidcProvider) -> Callable[[], Any]:
    """Starts replicas that know the provider."""

    @asynccontextmanager
    async def start() -> AsyncIterator[RunningGateway]:
        port = free_port()
        async with replica(
            oidc_issuer=provider.url,
            oidc_audience="api",
            oidc_client_id=CLIENT_ID,
            oidc_client_secret=SecretStr(CLIENT_SECRET),
            oidc_tenant="acme",
            http_port=port,
            public_url=f"http://127.0.0.1:{port}",
        ) as running:
            yield running

    return start


async def follow(browser: httpx.AsyncClient, path: str) -> httpx.Response:
    """Goes where it is led: to the provider, and back to the callback, whose answer it gives."""
    out = await browser.get(path)
    assert out.status_code == 303, out.text
    back = await asyncio.to_thread(httpx.get, out.headers["location"], trust_env=False)
    return await browser.get(back.headers["location"])


async def test_a_person_logs_in_through_the_provider_and_lands_where_they_wanted(
    with_provider: Callable[[], Any], provider: OidcProvider
) -> None:
    async with with_provider() as gateway:
        browser = gateway.client()
        assert (await browser.get("/auth/config")).json()["oidc"] is True
        landed = await follow(browser, "/auth/oidc/start?next=/approvals/a-1")
        assert (landed.status_code, landed.headers["location"]) == (303, "/approvals/a-1")
        assert (await browser.get("/auth/me")).json() == {
            "subject": "paula", "tenant": "acme", "roles": ["approver", "operator"], "kind": "person",
        }  # fmt: skip
        created = await browser.post("/v1/sessions", json={}, headers=OURS)
        assert created.json()["user_id"] == "paula"
        (asked,) = provider.authorizations
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert asked["redirect_uri"] == f"{gateway.url}/auth/oidc/callback"
        assert (await browser.post("/auth/logout", headers=OURS)).status_code == 204
        assert (await browser.get("/auth/me")).status_code == 401


async def test_the_cookie_of_a_login_on_its_way_can_be_planted_by_no_other_host(
    replica: Replica, provider: OidcProvider
) -> None:
    async with replica(
        oidc_issuer=provider.url, oidc_audience="api", oidc_client_id=CLIENT_ID, oidc_tenant="acme",
        oidc_client_secret=SecretStr(CLIENT_SECRET), public_url="https://flotilla.example",
    ) as gateway:  # fmt: skip
        out = await gateway.client().get("/auth/oidc/start")
        (cookie,) = out.headers.get_list("set-cookie")
        name_and_secret, *attributes = cookie.split("; ")
        assert name_and_secret.startswith("__Host-flotilla_login=")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=lax"} <= set(attributes)
        assert not [each for each in attributes if each.startswith("Domain")]


async def test_a_login_leads_to_no_other_site(with_provider: Callable[[], Any]) -> None:
    async with with_provider() as gateway:
        for wanted in ("https://evil.example", "//evil.example", "/%5Cevil.example", "javascript:alert(1)"):
            landed = await follow(gateway.client(), f"/auth/oidc/start?next={wanted}")
            assert (landed.status_code, landed.headers["location"]) == (303, "/")


async def test_a_login_can_be_finished_once_and_only_by_the_browser_that_began_it(
    with_provider: Callable[[], Any],
) -> None:
    async with with_provider() as gateway:
        victim, attacker = gateway.client(), gateway.client()
        out = await attacker.get("/auth/oidc/start")
        back = await asyncio.to_thread(httpx.get, out.headers["location"], trust_env=False)
        planted = back.headers["location"]
        assert (await victim.get(planted)).headers["location"] == "/login?failed=expired"
        assert (await attacker.get(planted)).headers["location"] == "/login?failed=expired"
        browser = gateway.client()
        out = await browser.get("/auth/oidc/start")
        back = await asyncio.to_thread(httpx.get, out.headers["location"], trust_env=False)
        assert (await browser.get(back.headers["location"])).headers["location"] == "/"
        assert (await browser.get(back.headers["location"])).headers["location"] == "/login?failed=expired"


async def test_two_tabs_of_a_browser_can_log_in_at_the_same_time(with_provider: Callable[[], Any]) -> None:
    async with with_provider() as gateway:
        browser = gateway.client()
        outs = [await browser.get(f"/auth/oidc/start?next=/{page}") for page in ("runs", "fleet")]
        backs = [await asyncio.to_thread(httpx.get, out.headers["location"], trust_env=False) for out in outs]
        landed = [(await browser.get(back.headers["location"])).headers["location"] for back in backs]
        assert landed == ["/runs", "/fleet"]


async def test_a_login_may_begin_at_one_replica_and_end_at_another(replica: Replica, provider: OidcProvider) -> None:
    options = {
        "oidc_issuer": provider.url, "oidc_audience": "api", "oidc_client_id": CLIENT_ID, "oidc_tenant": "acme",
        "oidc_client_secret": SecretStr(CLIENT_SECRET), "public_url": "http://127.0.0.1:9",
    }  # fmt: skip
    async with replica(**options) as one, replica(**options) as two:
        browser = one.client()
        out = await browser.get("/auth/oidc/start?next=/runs")
        back = await asyncio.to_thread(httpx.get, out.headers["location"], trust_env=False)
        other = two.client()
        other.cookies = httpx.Cookies(dict(browser.cookies))
        query = urlsplit(back.headers["location"]).query
        assert (await other.get(f"/auth/oidc/callback?{query}")).headers["location"] == "/runs"
        assert (await other.get("/auth/me")).json()["subject"] == "paula"


@pytest.mark.parametrize(
    "tamper",
    [
        {"iss": "http://evil.example"},
        {"aud": "api"},
        {"aud": [CLIENT_ID, "other"]},
        {"aud": [CLIENT_ID, "other"], "azp": "other"},
        {"exp": 1},
        {"nonce": "another"},
        {"nonce": None},
        {"sub": ""},
    ],
)
async def test_identity_tokens_that_do_not_hold_sign_nobody_in(
    with_provider: Callable[[], Any], provider: OidcProvider, tamper: dict[str, Any]
) -> None:
    provider.tamper = tamper
    async with with_provider() as gateway:
        browser = gateway.client()
        landed = await follow(browser, "/auth/oidc/start")
        assert landed.headers["location"] == "/login?failed=unknown"
        assert (await browser.get("/auth/me")).status_code == 401
        assert await gateway.rows("SELECT 1 FROM flotilla.sign_ins") == []


async def test_a_token_that_somebody_else_signed_signs_nobody_in(
    with_provider: Callable[[], Any], provider: OidcProvider
) -> None:
    async with with_provider() as gateway:
        published = provider.jwks()
        provider.jwks = lambda: published  # type: ignore[method-assign]
        provider.key = rsa.generate_private_key(65537, 2048)
        landed = await follow(gateway.client(), "/auth/oidc/start")
        assert landed.headers["location"] == "/login?failed=unknown"


async def test_who_has_no_role_here_or_is_refused_by_the_provider_reads_why(
    with_provider: Callable[[], Any], provider: OidcProvider
) -> None:
    async with with_provider() as gateway:
        provider.claims = {"sub": "nora", "roles": ["king"]}
        assert (await follow(gateway.client(), "/auth/oidc/start")).headers["location"] == "/login?failed=no_role"
        provider.refuse = "access_denied"
        assert (await follow(gateway.client(), "/auth/oidc/start")).headers["location"] == "/login?failed=denied"
        answer = await gateway.client().get("/auth/oidc/callback?code=a&state=b")
        assert answer.headers["location"] == "/login?failed=expired"


async def test_a_provider_that_is_away_is_503(with_provider: Callable[[], Any], provider: OidcProvider) -> None:
    async with with_provider() as gateway:
        good = provider.discovery()
        for wrong in ({"issuer": "http://evil.example"}, {"token_endpoint": "http://far.example/token"}):
            document = {**good, **wrong}
            provider.discovery = lambda document=document: document  # type: ignore[method-assign,misc]
            answer = await gateway.client().get("/auth/oidc/start")
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        provider.discovery = lambda: good  # type: ignore[method-assign]
        assert (await gateway.client().get("/auth/oidc/start")).status_code == 303


async def test_a_confidential_client_with_a_wrong_secret_signs_nobody_in(
    replica: Replica, provider: OidcProvider
) -> None:
    async with replica(
        oidc_issuer=provider.url, oidc_audience="api", oidc_client_id=CLIENT_ID, public_url="http://127.0.0.1:9"
    ) as gateway:
        browser = gateway.client()
        out = await browser.get("/auth/oidc/start")
        assert parse_qs(urlsplit(out.headers["location"]).query)["prompt"] == ["login"]
        back = await asyncio.to_thread(httpx.get, out.headers["location"], trust_env=False)
        landed = await browser.get(f"/auth/oidc/callback?{urlsplit(back.headers['location']).query}")
        assert landed.headers["location"] == "/login?failed=unknown"
