import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from flotilla.contracts.errors import RetryLater
from gateway.auth.jwks import MAX_AGE_S, PAUSE_S, STALE_FOR_S, Jwks
from gateway.auth.oidc import LEEWAY_S, OidcTokenOptions, OidcTokens

AUDIENCE = "flotilla"


FIRST_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
"""Finding one takes long."""


class Provider:
    """An OpenID provider on loopback whose keys can be changed, and which can be taken away."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"one": FIRST_KEY}
        self.away = False
        self.answers: dict[str, bytes] = {}
        """What it answers instead of its documents, by path."""
        self.asked: list[str] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                documents = {"/.well-known/openid-configuration": {"jwks_uri": f"{provider.issuer}/keys"}}
                document = documents.get(self.path, provider.jwks())
                body = provider.answers.get(self.path, json.dumps(document).encode())
                if body.startswith(b"HTTP"):
                    self.wfile.write(body)
                    return
                self.send_response(500 if provider.away else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_address[1]}"

    def jwks(self) -> dict[str, Any]:
        return {"keys": [{**_public(key), "kid": kid, "use": "sig"} for kid, key in self.keys.items()]}

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "carol",
            "iat": now,
            "exp": now + 60,
            "email": "carol@example.com",
            "roles": ["approver", "gardener"],
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, kid: str = "one", algorithm: str = "RS256", **changes: Any) -> str:
        return jwt.encode(self.claims(**changes), self.keys[kid], algorithm, headers={"kid": kid})


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _public(key: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return ECAlgorithm.to_jwk(key.public_key(), as_dict=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    thread = threading.Thread(target=provider.server.serve_forever, args=(0.01,), name="oidc", daemon=True)
    thread.start()
    yield provider
    provider.server.shutdown()
    provider.server.server_close()
    thread.join()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def oidc(provider: Provider, clock: Clock) -> OidcTokens:
    return make(provider, clock)


def make(provider: Provider, clock: Clock, **options: Any) -> OidcTokens:
    chosen = {"algorithms": ("RS256", "ES256"), **options}
    return OidcTokens(
        OidcTokenOptions(issuer=provider.issuer, audience=AUDIENCE, **chosen),
        Jwks(provider.issuer, None, monotonic=clock),
    )


async def test_a_good_token_is_its_subject_with_the_roles_that_are_known(oidc: OidcTokens, provider: Provider) -> None:
    principal = await oidc.find_principal(provider.token())
    assert principal is not None
    assert (principal.subject, principal.tenant_id, list(principal.roles)) == ("carol", "default", ["approver"])
    assert principal.is_person
    assert principal.key_id is None


async def test_elliptic_curves_are_understood(oidc: OidcTokens, provider: Provider) -> None:
    provider.keys["two"] = ec.generate_private_key(ec.SECP256R1())
    assert await oidc.find_principal(provider.token("two", "ES256")) is not None


async def test_a_token_without_the_person_claim_belongs_to_no_person(oidc: OidcTokens, provider: Provider) -> None:
    principal = await oidc.find_principal(provider.token(email=None))
    assert principal is not None
    assert not principal.is_person


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another"},
        {"aud": None},
        {"aud": []},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"exp": 1},
        {"exp": None},
        {"iat": None},
        {"iat": 4_000_000_000},
        {"nbf": 4_000_000_000},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 300},
    ],
    ids=str,
)
async def test_tokens_with_wrong_claims_are_refused(
    oidc: OidcTokens, provider: Provider, changes: dict[str, Any]
) -> None:
    assert await oidc.find_principal(provider.token(**changes)) is None


async def test_a_token_that_has_just_expired_is_let_through_for_the_leeway_only(
    oidc: OidcTokens, provider: Provider
) -> None:
    now = int(time.time())
    assert await oidc.find_principal(provider.token(exp=now - LEEWAY_S + 10)) is not None
    assert await oidc.find_principal(provider.token(exp=now - LEEWAY_S - 10)) is None


async def test_unsigned_tokens_are_refused(oidc: OidcTokens, provider: Provider) -> None:
    for alg in ("none", "None", "NONE"):
        header = {"alg": alg, "typ": "JWT", "kid": "one"}
        assert await oidc.find_principal(f"{_part(header)}.{_part(provider.claims())}.") is None
    head, body, _ = provider.token().split(".")
    assert await oidc.find_principal(f"{head}.{body}.") is None


async def test_the_public_key_used_as_a_shared_secret_is_refused(oidc: OidcTokens, provider: Provider) -> None:
    public = provider.keys["one"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT', 'kid': 'one'})}.{_part(provider.claims())}"
    mac = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
    assert await oidc.find_principal(f"{signed}.{_base64(mac)}") is None


async def test_algorithms_that_are_not_listed_are_refused(provider: Provider, clock: Clock) -> None:
    oidc = make(provider, clock, algorithms=("ES256",))
    assert await oidc.find_principal(provider.token()) is None
    assert await make(provider, clock).find_principal(provider.token(algorithm="PS256")) is None


async def test_a_token_signed_by_somebody_else_under_a_known_key_id_is_refused(
    oidc: OidcTokens, provider: Provider
) -> None:
    forged = jwt.encode(provider.claims(), _rsa(), "RS256", headers={"kid": "one"})
    assert await oidc.find_principal(forged) is None


async def test_a_token_cannot_bring_its_own_key(oidc: OidcTokens, provider: Provider) -> None:
    key = _rsa()
    headers = {"kid": "mine", "jwk": _public(key), "jku": f"{provider.issuer}/keys"}
    assert await oidc.find_principal(jwt.encode(provider.claims(), key, "RS256", headers=headers)) is None


async def test_a_rotated_in_key_is_fetched_and_a_rotated_out_one_refused(
    oidc: OidcTokens, provider: Provider, clock: Clock
) -> None:
    old = provider.token()
    assert await oidc.find_principal(old) is not None
    provider.keys = {"two": _rsa()}
    clock.now += PAUSE_S
    assert await oidc.find_principal(provider.token("two")) is not None
    assert await oidc.find_principal(old) is None


async def test_made_up_key_ids_do_not_flood_the_provider(oidc: OidcTokens, provider: Provider) -> None:
    for n in range(20):
        token = jwt.encode(provider.claims(), provider.keys["one"], "RS256", headers={"kid": f"made-up-{n}"})
        assert await oidc.find_principal(token) is None
    assert provider.asked.count("/keys") == 1


async def test_known_keys_are_used_while_the_provider_is_away_but_not_indefinitely(
    oidc: OidcTokens, provider: Provider, clock: Clock
) -> None:
    token = provider.token()
    assert await oidc.find_principal(token) is not None
    provider.away = True
    clock.now += MAX_AGE_S + 1
    assert await oidc.find_principal(token) is not None
    clock.now += STALE_FOR_S
    with pytest.raises(RetryLater, match="does not answer"):
        await oidc.find_principal(token)


async def test_a_provider_that_was_never_reached_is_no_refusal(provider: Provider, clock: Clock) -> None:
    provider.away = True
    with pytest.raises(RetryLater):
        await make(provider, clock).find_principal(provider.token())


DISCOVERY = "/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (DISCOVERY, b"{}"),
        (DISCOVERY, b'{"jwks_uri": 5}'),
        (DISCOVERY, b'{"jwks_uri": "file:///etc/passwd"}'),
        (DISCOVERY, b'{"jwks_uri": "http://keys.example/"}'),
        (DISCOVERY, b'{"jwks_uri": "http://[::1"}'),
        (DISCOVERY, b"[]"),
        (DISCOVERY, b"<html>"),
        (DISCOVERY, b"HTTP/1.1 OK what\r\n\r\n"),
        ("/keys", b""),
        ("/keys", b"[" * 100_000),
        ("/keys", b'{"keys": null}'),
        ("/keys", b'{"keys": [{"kty": "RSA", "alg": ["RS256"], "n": "AA", "e": "AA"}]}'),
        ("/keys", b'{"keys": [' + b" " * 1_100_000 + b"]}"),
        ("/keys", b'{"keys": "\xff"}'),
        ("/keys", b"HTTP/9.9 200"),
        ("/keys", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_provider_that_answers_nonsense_is_away_and_is_asked_again(
    oidc: OidcTokens, provider: Provider, clock: Clock, path: str, answer: bytes
) -> None:
    provider.answers[path] = answer
    with pytest.raises(RetryLater, match="does not answer"):
        await oidc.find_principal(provider.token())
    provider.answers.clear()
    clock.now += PAUSE_S
    assert await oidc.find_principal(provider.token()) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": {"at": 1}},
        {"nbf": [1]},
        {"sub": ["carol"]},
        {"sub": {"name": "carol"}},
        {"aud": {"flotilla": True}},
        {"aud": [AUDIENCE, 7]},
        {"iss": ["https://one.example"]},
        {"iat": "yesterday"},
    ],
    ids=str,
)
async def test_claims_of_any_type_are_refused_with_a_reason_in_the_log(
    oidc: OidcTokens, provider: Provider, changes: dict[str, Any]
) -> None:
    payload = json.dumps({**provider.claims(), **changes}).encode()
    token = jwt.api_jws.encode(payload, provider.keys["one"], "RS256", headers={"kid": "one"})
    with structlog.testing.capture_logs() as logs:
        assert await oidc.find_principal(token) is None
    assert [entry["event"] for entry in logs] == ["token_refused"]
    assert logs[0]["reason"]


async def test_tenant_and_roles_come_from_the_claims_that_are_named(provider: Provider, clock: Clock) -> None:
    oidc = make(provider, clock, roles_claim="realm_access.roles", tenant_claim="org")
    claims: dict[str, Any] = {"org": "acme", "realm_access": {"roles": ["viewer"]}}
    principal = await oidc.find_principal(provider.token(**claims))
    assert principal is not None
    assert (principal.tenant_id, list(principal.roles)) == ("acme", ["viewer"])
    assert await oidc.find_principal(provider.token()) is None
    assert await oidc.find_principal(provider.token(**{**claims, "org": 7})) is None


async def test_what_is_no_token_at_all_is_refused(oidc: OidcTokens) -> None:
    for text in ("..", "a.b.c", "\udcff.x.y", "x" * 20_000, "é.é.é", f"{_part({'alg': ['RS256']})}.e30.x"):
        assert await oidc.find_principal(text) is None


def _part(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
