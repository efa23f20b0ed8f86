"""JWTs of an OpenID provider at a running gateway: which are let in, as whom, and which are not."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.auth.jwks import PAUSE_S
from tests.integration.gateway.conftest import Replica
from tests.support.gateway import RunningGateway
from tests.support.oidc_provider import OidcProvider, oidc_provider
from tests.support.waiting import eventually

AUDIENCE = "flotilla"


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with oidc_provider() as running:
        yield running


def claims_of(provider: OidcProvider, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {"iss": provider.url, "aud": AUDIENCE, "iat": now, "exp": now + 300, **provider.claims, **changes}
    return {name: value for name, value in claims.items() if value is not None}


def token(provider: OidcProvider, key: Any = None, algorithm: str = "RS256", **changes: Any) -> str:
    return jwt.encode(claims_of(provider, **changes), key or provider.key, algorithm, headers={"kid": "one"})


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def public_pem(provider: OidcProvider) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return provider.key.public_key().public_bytes(serialization.Encoding.PEM, form)


async def status_with(gateway: RunningGateway, bearer: str) -> int:
    return (await gateway.client(bearer).get("/v1/runs")).status_code


async def test_only_tokens_that_hold_are_let_in(replica: Replica, provider: OidcProvider) -> None:
    unsigned = f"{part({'alg': 'none', 'typ': 'JWT', 'kid': 'one'})}.{part(claims_of(provider))}."
    shared = base64.urlsafe_b64encode(b"x" * 32)
    bad = {
        "none": unsigned,
        "no signature": token(provider).rpartition(".")[0] + ".",
        "shared secret": jwt.encode(claims_of(provider), shared, "HS256", headers={"kid": "one"}),
        "an algorithm that is not listed": token(provider, algorithm="PS256"),
        "somebody else's key": token(provider, rsa.generate_private_key(65537, 2048)),
        "audience": token(provider, aud="another"),
        "no audience": token(provider, aud=None),
        "issuer": token(provider, iss="https://evil.example"),
        "expired": token(provider, exp=int(time.time()) - 120),
        "no expiry": token(provider, exp=None),
        "not yet": token(provider, nbf=int(time.time()) + 3600),
        "no subject": token(provider, sub=None),
    }
    async with replica(oidc_issuer=provider.url, oidc_audience=AUDIENCE) as gateway:
        assert await status_with(gateway, token(provider)) == 200
        assert {why: await status_with(gateway, bearer) for why, bearer in bad.items()} == dict.fromkeys(bad, 401)
        changed = await gateway.client(token(provider, roles=["viewer"])).post("/v1/sessions", json={})
        assert changed.status_code == 403


async def test_a_key_that_was_rotated_out_is_refused_and_the_new_one_known(
    replica: Replica, provider: OidcProvider
) -> None:
    async with replica(oidc_issuer=provider.url, oidc_audience=AUDIENCE, failed_logins_per_minute=1e6) as gateway:
        old = token(provider)
        assert await status_with(gateway, old) == 200
        provider.key = rsa.generate_private_key(65537, 2048)
        provider.key_id = "two"
        new = jwt.encode(claims_of(provider), provider.key, "RS256", headers={"kid": "two"})

        async def is_known() -> bool:
            return await status_with(gateway, new) == 200

        await eventually(is_known, timeout_s=PAUSE_S + 20)
        assert await status_with(gateway, old) == 401


async def test_a_tokens_subject_is_who_acts(replica: Replica, provider: OidcProvider) -> None:
    async with replica(oidc_issuer=provider.url, oidc_audience=AUDIENCE) as gateway:
        paula = gateway.client(token(provider))
        assert (await paula.get("/auth/me")).json() == {
            "subject": "paula",
            "tenant": "default",
            "roles": ["approver", "operator"],
            "kind": "person",
        }
        service = gateway.client(token(provider, sub="ci", email=None))
        assert (await service.get("/auth/me")).json()["kind"] == "service"
