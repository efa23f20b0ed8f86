"""Login to the console through an OpenID provider."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from flotilla_devstack.ports import free_port
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_login import OURS
from tests.support.gateway import RunningGateway
from tests.support.oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider, oidc_provider


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
