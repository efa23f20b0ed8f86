"""The gateway's settings."""

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from flotilla.config import (
    EncryptionSettings,
    KafkaSettings,
    KnowledgeSettings,
    OpenWorkLimitSettings,
    OperatorSettings,
    PostgresSettings,
    RedisSettings,
    ServiceSettings,
    TemporalSettings,
    TokenBudgetSettings,
    Words,
)
from flotilla.contracts.names import TASK_QUEUE
from flotilla.eventstore.sessions import Visibility

_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?", re.ASCII)
_DEFAULT_PORTS = {"https": ":443", "http": ":80"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_ALGORITHMS = {
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}  # fmt: skip
Share = Annotated[float, Field(gt=0)]


def is_confidential_url(url: str) -> bool:
    """Whether nobody on the way can read or change what goes to `url`."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def is_confidential_origin(text: str) -> bool:
    """Return whether `text` is an origin as browsers write it (RFC 6454, section 6.2), and is confidential."""
    if not _ORIGIN.fullmatch(text) or not is_confidential_url(text):
        return False
    return not text.endswith(_DEFAULT_PORTS[urlsplit(text).scheme])


class Settings(
    ServiceSettings,
    PostgresSettings,
    EncryptionSettings,
    RedisSettings,
    KafkaSettings,
    TemporalSettings,
    KnowledgeSettings,
    OperatorSettings,
    TokenBudgetSettings,
    OpenWorkLimitSettings,
):
    """Settings of `gateway`."""

    http_host: str = "0.0.0.0"  # noqa: S104 - in a pod, the clients come from outside
    """The address that the gateway listens on; `::` is every address of IPv6 and IPv4."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """The port that the gateway listens on; 0 picks a free one."""
    postgres_pool_max: int = Field(default=20, ge=2)
    """The most connections to PostgreSQL."""
    task_queue: str = TASK_QUEUE
    """The Temporal task queue of the workflow worker; it must have the same."""

    max_body_bytes: int = Field(default=2 * 1024 * 1024, ge=1024)
    """The largest JSON body of a request; larger ones are refused with 413."""
    max_json_depth: int = Field(default=64, ge=4)
    """How deep objects and lists of a JSON body may be nested."""
    max_json_values: int = Field(default=50_000, ge=100)
    """How many values (numbers, texts, objects, lists) a JSON body may hold."""
    document_readers: int = Field(default=2, ge=1)
    """Processes that read uploaded documents at the same time; they start with the first document."""
    document_read_s: float = Field(default=20.0, gt=0)
    """Processor time that reading one document may take, in seconds; one that takes longer is refused."""
    document_read_memory_mb: int = Field(default=256, ge=64)
    """Memory that reading one document may take, in MiB, beyond the 60 MiB of an idle process."""
    requests_per_s: Share = 500.0
    """Requests per second of one tenant, at each replica; more are refused with 429."""
    request_burst: int = Field(default=1000, ge=1)
    """How many requests of one tenant may come at once."""
    requests_per_s_per_person: Share = 200.0
    """Requests per second of one person, directly or through a service on their behalf, at each replica."""
    request_burst_per_person: int = Field(default=500, ge=1)
    """How many requests of one person may come at once."""
    requests_per_s_per_service: Share = 400.0
    """Requests per second of one service, in its own name and on behalf of people, at each replica."""
    request_burst_per_service: int = Field(default=800, ge=1)
    """How many requests of one service may come at once."""
    agents: Words = ("research", "write")
    """Agents that tasks may go to before they have registered; in other languages, or started by their first task."""
    trusted_proxies: Words = ()
    """Addresses or networks of proxies, `10.0.0.0/8`: what they say of a client's address (`X-Forwarded-For`) counts,
    and they may hold any number of connections."""
    connections_per_address: int = Field(default=256, ge=1)
    """Open connections of one client address, at each replica; requests on more are answered with 429."""
    request_head_s: float = Field(default=10.0, gt=0)
    """Seconds until the head of a request has to be there, from its first byte; then the connection is closed."""
    request_body_s: float = Field(default=30.0, gt=0)
    """Seconds until the body of a request has to be there, beyond what it takes at 16 KiB/s."""
    failed_logins_per_minute: Share = 30.0
    """Requests with a wrong key or token that one address may make in a minute, at each replica; more are answered with
    429. Requests with a right one go on working."""
    max_streams: int = Field(default=1000, ge=1)
    """Open event streams at each replica."""
    max_streams_per_tenant: int = Field(default=250, ge=1)
    """Open event streams of one tenant at each replica."""
    cors_origins: Words = ()
    """Origins whose web pages may read the API's answers, each in full: `https://app.example.com`. They need a browser
    token (`POST /v1/tokens`); cookies count for the console's own pages only."""
    mcp_hosts: Words = ()
    """Names by which MCP clients reach the gateway beside `public_url` and this machine's own, without a port:
    `gateway.flotilla.svc`. Requests to `/mcp` under any other name are refused."""
    mcp_wait_s: float = Field(default=45.0, ge=0, le=600)
    """How long a call of a tool at `/mcp` waits for its end, in seconds; then the client is asked to call again. Many
    clients give up after 60 seconds."""
    browser_token_max_s: int = Field(default=3600, ge=30, le=24 * 3600)
    """The longest that a browser token may last, in seconds."""
    key_cache_s: float = Field(default=20.0, ge=0, le=60)
    """How long a checked API key is remembered: a revoked one works no longer than this."""
    session_visibility: Visibility = "private"
    """Who sees a new session until it is shared: `private`, its owner and the `session_operators`; `tenant`, everybody
    in the tenant."""
    session_operators: Words = ("admin",)
    """Roles, and groups as `group:NAME`, that see and operate every session of their tenant."""
    approval_policy: str = "builtin:production"
    """A policy file, `builtin:production` or `builtin:local`; the workflow worker must have the same."""
    notify_hosts: Words = ()
    """Hosts that may get notices of runs: `hooks.example.com`, over https; the workflow worker must have the same."""
    vote_roots: Path | None = None
    """A file (TOML) of the keys whose approval of a voter's key counts; the workflow worker must have the same."""
    card_signing_key_file: Path | None = None
    """The private key (PEM, Ed25519) that signs A2A agent cards; it needs `public_url`. Unset leaves them unsigned."""
    card_public_keys_file: Path | None = None
    """Further public keys (PEM, Ed25519) that `/.well-known/jwks.json` lists: those that signed cards before, or
    will."""
    audit_public_key_file: Path | None = None
    """Public keys (PEM) that may have signed the audit checkpoints; unset leaves signatures unchecked."""

    oidc_issuer: str | None = None
    """Accept JWTs of this OpenID provider, `https://login.example.com/realms/main`; unset accepts API keys only."""
    oidc_audience: str | None = None
    """What a token's `aud` claim must hold."""
    oidc_jwks_url: str | None = None
    """Where the provider's keys are; by default what its discovery document says."""
    oidc_algorithms: Words = ("RS256", "ES256")
    """Signature algorithms that a token of the provider may have."""
    oidc_roles_claim: str = "roles"
    """Claim with the list of roles; `a.b` reads a nested one. Names that are not roles of Flotilla are ignored."""
    oidc_tenant_claim: str | None = None
    """Claim with the tenant; unset puts everybody into `oidc_tenant`."""
    oidc_tenant: str = "default"
    """The tenant of everybody who comes from the provider, where no claim names it."""
    oidc_person_claim: str = "email"
    """A token without this claim belongs to no person, and can't approve."""
    oidc_groups_claim: str = "groups"
    """Claim with the list of groups, with which sessions can be shared; `a.b` reads a nested one."""
    oidc_ca_file: str | None = None
    """Certificates to trust the provider by; by default the system's."""

    oidc_client_id: str | None = None
    """Lets people log in to the console through the provider, by the authorization code flow, as this client."""
    oidc_client_secret: SecretStr | None = None
    """The client's secret at the provider; unset for a public client."""
    oidc_scopes: Words = ("openid", "profile", "email")
    """Scopes to ask the provider for at login; its identity token must hold the claims for roles, tenant and person."""

    public_url: str | None = None
    """Where browsers find the gateway, `https://flotilla.example.com`; unset is whatever host they ask."""
    console_key_login: bool = False
    """Let people log in to the console with an API key: for a local stack."""
    console_login_s: float = Field(default=8 * 3600.0, ge=60, le=7 * 24 * 3600)
    """Seconds that a login to the console lasts."""
    login_requests_per_s: Share = 20.0
    """Requests per second without credentials (the login routes) from one address, at each replica."""
    trace_url_template: str | None = None
    """A trace's address for the console to link to, `https://traces.example.com/trace/{trace_id}`."""
    temporal_ui_url: str | None = None
    """The Temporal UI for the console to link to, `https://temporal.example.com`."""

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            ip_network(proxy, strict=False)
        return proxies

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not is_confidential_origin(origin):
                raise ValueError(
                    f"{origin} is not an origin as browsers send it: https://HOST in small letters, with :PORT where "
                    "it is not 443; http only for this machine; no path and no wildcard"
                )
        return origins

    @field_validator("public_url", "temporal_ui_url", "trace_url_template")
    @classmethod
    def _for_browsers(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ValueError(f"{url} is not an address of the form https://HOST")
        return url.rstrip("/")

    @field_validator("oidc_algorithms")
    @classmethod
    def _asymmetric(cls, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        if not algorithms or not set(algorithms) <= _ALGORITHMS:
            raise ValueError(f"use some of {', '.join(sorted(_ALGORITHMS))}: others can be forged with the public key")
        return algorithms

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError("FLOTILLA_OIDC_ISSUER needs FLOTILLA_OIDC_AUDIENCE: else tokens for others are accepted")
        for name in ("oidc_issuer", "oidc_jwks_url"):
            url = getattr(self, name)
            if url and not is_confidential_url(url):
                raise ValueError(
                    f"FLOTILLA_{name.upper()} has to be https, not {url}: others could send their own keys"
                )
        if self.card_signing_key_file and not self.public_url:
            raise ValueError(
                "FLOTILLA_CARD_SIGNING_KEY_FILE needs FLOTILLA_PUBLIC_URL: else a request's Host header says which "
                "address is signed"
            )
        if self.oidc_client_id and not (self.oidc_issuer and self.public_url):
            raise ValueError(
                "FLOTILLA_OIDC_CLIENT_ID needs FLOTILLA_OIDC_ISSUER and FLOTILLA_PUBLIC_URL, to come back to"
            )
        if self.oidc_client_id and self.public_url and not is_confidential_url(self.public_url):
            raise ValueError(
                f"FLOTILLA_PUBLIC_URL has to be https for logins, not {self.public_url}: others could take the login"
            )
        return self
