"""Composition root of `gateway`: opens everything, wires it, serves until asked to stop, drains."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cache, partial
from urllib.parse import quote

import structlog

from flotilla.actions.arguments import load_action_argument_types
from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.bus import Redis, check_redis, connect_redis
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore
from flotilla.bus.known_agents import KnownAgents
from flotilla.config.signing import load_public_keys
from flotilla.contracts.identity import LOCAL_ISSUER
from flotilla.encryption import open_keyring
from flotilla.kafka.session_log import open_kafka_log
from flotilla.knowledge import create_knowledge_base
from flotilla.knowledge.redis_vectors import open_vector_store
from flotilla.postgres import ITSELF, Pool, SuspendedTenants, acting_as, check_schema, open_service_pool
from flotilla.postgres.workflow_ciphers import create_workflow_ciphers
from flotilla.runtime import Job, Runtime, http_server, serve
from flotilla.runtime.confined import CallLimits, ConfinedProcesses
from flotilla.runtime.http_limits import HttpLimits
from flotilla.runtime.json_schemas import SCHEMA_CHECKS
from flotilla.votes.roots import read_vote_roots
from gateway.a2a.errors import silence_sdk_logs
from gateway.application import VERSION, create_application
from gateway.auth.api_keys import ApiKeys
from gateway.auth.authenticator import Authenticator
from gateway.auth.browser_tokens import browser_token_lookup
from gateway.auth.impersonation import RefusedImpersonationLog
from gateway.auth.jwks import Jwks
from gateway.auth.oidc import OidcTokenOptions, OidcTokens
from gateway.auth.origin import BrowserOriginPolicy
from gateway.auth.sign_ins import SignInSessions
from gateway.card_key import AgentCardKey
from gateway.embedding_turns import EmbeddingQueue
from gateway.fleet.history import FleetSampler
from gateway.fleet.samples import empty_sample_buffer
from gateway.guard import RateLimits, RequestGuard
from gateway.limits import EventStreamSlots, RequestRateLimiter
from gateway.live.announcements import AnnouncementListener
from gateway.live.feed import LiveStreamWatch
from gateway.live.run_watch import RunWatch
from gateway.login.attempts import LoginAttempts
from gateway.login.code_flow import CALLBACK, AuthorizationCodeFlow
from gateway.login.provider import OidcClient, OidcProvider
from gateway.mcp.exchange import serve_mcp_messages
from gateway.mcp.reads import reads
from gateway.mcp.server import make_server
from gateway.open_work import OpenWorkLimits
from gateway.privacy.expired_documents import ExpiredDocumentsJob
from gateway.retention import RetentionJob
from gateway.services import GatewayServices, LoginSetup
from gateway.settings import Settings
from gateway.temporal import TemporalGateway

SERVICE = "gateway"
log = structlog.get_logger(__name__)


async def run(settings: Settings, runtime: Runtime) -> None:
    """Serves until `runtime.stop`, then lets requests and streams end."""
    async with serve_before_ready(settings, runtime) as port:
        log.info("listening", port=port)
        if await runtime.wait_until_ready():
            await runtime.stop.wait()


@asynccontextmanager
async def serve_before_ready(settings: Settings, runtime: Runtime) -> AsyncIterator[int]:
    """Serve the API at once and yield its port; until its dependencies are ready, requests get 503 with Retry-After."""
    async with AsyncExitStack() as stack:
        redis_url = settings.redis_url.get_secret_value()
        keyring = open_keyring(settings)
        pool = await stack.enter_async_context(open_service_pool(settings, application=SERVICE, keyring=keyring))
        redis = await stack.enter_async_context(connect_redis(redis_url, name=runtime.instance))
        temporal = TemporalGateway(settings, settings.task_queue, create_workflow_ciphers(pool, keyring))
        services = await _services(settings, runtime, pool, redis, stack, temporal=temporal)
        _add_checks(runtime, services)
        silence_sdk_logs()
        app = create_application(services, _guard(settings, services), runtime.health, settings.cors_origins)
        app.state.mcp = await stack.enter_async_context(
            serve_mcp_messages(make_server(VERSION), cache(partial(reads, app.routes)), settings.max_body_bytes)
        )
        announcements = AnnouncementListener(redis_url, services.watch)
        jobs = (
            Job(name="live feed", work=services.feed.run),
            Job(name="run watch", work=services.watch.run),
            Job(name="announcements", work=announcements.run),
            Job(name="retention", work=RetentionJob(pool).run),
            Job(name="expired documents", work=ExpiredDocumentsJob(pool, services.knowledge).run),
            Job(name="policy", work=services.policies.reload_until_stopped),
            Job(name="knowledge", work=services.knowledge.maintain_index),
            Job(
                name="sampler",
                work=FleetSampler(services.pool, services.redis, services.kafka_log, services.samples).run,
            ),
        )
        with acting_as(ITSELF):  # the jobs; each request acts for its caller
            await stack.enter_async_context(runtime.supervisor.running_jobs(*jobs, limit_s=settings.drain_s))
        grace_s = max(1, int(settings.drain_s) - 2)
        server = http_server(
            app, settings.http_host, settings.http_port, grace_s=grace_s, limits=_http_limits(settings)
        )
        yield await stack.enter_async_context(
            server.serving(partial(runtime.supervisor.task_ended_early, "http server"))
        )


async def _services(
    settings: Settings, runtime: Runtime, pool: Pool, redis: Redis, stack: AsyncExitStack, *, temporal: TemporalGateway
) -> GatewayServices:
    load_action_argument_types()  # A package that adds a wrong one stops the start, not a request.
    knowledge = create_knowledge_base(
        pool,
        settings,
        await stack.enter_async_context(open_vector_store(settings, connect_redis)),
        run=(await stack.enter_async_context(_readers(settings))).run,
    )
    stack.push_async_callback(knowledge.close)
    return GatewayServices(
        pool=pool,
        tenants=SuspendedTenants(pool, with_finishing=True),
        redis=redis,
        temporal=temporal,
        kafka_log=await stack.enter_async_context(open_kafka_log(settings)),
        knowledge=knowledge,
        embedding_turns=EmbeddingQueue(),
        run_confined=(await stack.enter_async_context(_checkers())).run,
        policies=ReloadingPolicyFile(settings.approval_policy),
        vote_roots=read_vote_roots(settings.vote_roots),
        dead_letters=PostgresDeadLetterStore(pool, settings.operator_tenant),
        audit_keys=load_public_keys(settings.audit_public_key_file) if settings.audit_public_key_file else None,
        operator_tenant=settings.operator_tenant,
        notify_hosts=settings.notify_hosts,
        card_key=_card_key(settings),
        public_url=settings.public_url,
        mcp_hosts=settings.mcp_hosts,
        mcp_wait_s=settings.mcp_wait_s,
        cors_origins=settings.cors_origins,
        oidc_issuer=settings.oidc_issuer,
        open_work=OpenWorkLimits(settings),
        people_issuer=settings.oidc_issuer or LOCAL_ISSUER,
        session_visibility=settings.session_visibility,
        api_keys=ApiKeys(pool, settings.key_cache_s),
        browser_tokens=browser_token_lookup(pool, settings.key_cache_s),
        browser_token_max_s=settings.browser_token_max_s,
        login=_login(settings, pool, redis),
        agents=KnownAgents(pool, redis, settings.agents),
        feed=LiveStreamWatch(redis),
        watch=RunWatch(pool),
        samples=empty_sample_buffer(),
        streams=EventStreamSlots(settings.max_streams, settings.max_streams_per_tenant),
        stopping=runtime.stop,
    )


def _card_key(settings: Settings) -> AgentCardKey | None:
    file = settings.card_signing_key_file
    return AgentCardKey.load(file, settings.card_public_keys_file) if file else None


def _http_limits(settings: Settings) -> HttpLimits:
    return HttpLimits(
        head_s=settings.request_head_s,
        body_s=settings.request_body_s,
        connections_per_address=settings.connections_per_address,
        trusted_proxies=settings.trusted_proxies,
    )


def _readers(settings: Settings) -> AbstractAsyncContextManager[ConfinedProcesses]:
    limits = CallLimits(
        cpu_s=settings.document_read_s,
        wall_s=3 * settings.document_read_s,
        memory_bytes=settings.document_read_memory_mb * 1024**2,
    )
    modules = ("flotilla.knowledge.base", "flotilla.knowledge.identifier")
    return ConfinedProcesses.open(*modules, children=settings.document_readers, limits=limits)


def _checkers() -> AbstractAsyncContextManager[ConfinedProcesses]:
    limits = CallLimits(cpu_s=2.0, wall_s=20.0, memory_bytes=128 * 1024**2)
    return ConfinedProcesses.open(SCHEMA_CHECKS, children=2, limits=limits)


def _add_checks(runtime: Runtime, services: GatewayServices) -> None:
    """Redis and Temporal have to answer once, which finds wrong addresses; later the gateway does without."""
    runtime.health.add_check("postgres", lambda: check_schema(services.pool))
    runtime.health.add_check("redis", _until_first_success(lambda: check_redis(services.redis)))
    runtime.health.add_check("temporal", _until_first_success(services.temporal.check_ready))


def _until_first_success(check: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    succeeded = False

    async def once() -> None:
        nonlocal succeeded
        if not succeeded:
            await check()
            succeeded = True

    return once


def _guard(settings: Settings, services: GatewayServices) -> RequestGuard:
    return RequestGuard(
        authenticator=Authenticator(
            services.api_keys,
            _oidc(settings, settings.oidc_audience),
            services.login.sign_ins,
            services.browser_tokens,
        ),
        rates=_rates(settings),
        strangers=RequestRateLimiter(settings.login_requests_per_s, max(1, int(settings.login_requests_per_s * 5))),
        failures=RequestRateLimiter(
            settings.failed_logins_per_minute / 60,
            max(1, int(settings.failed_logins_per_minute)),
            what="keys or tokens that do not hold",
        ),
        max_body_bytes=settings.max_body_bytes,
        max_json_depth=settings.max_json_depth,
        max_json_values=settings.max_json_values,
        impersonations=RefusedImpersonationLog(services.pool),
        session_operators=frozenset(settings.session_operators),
        tenants=services.tenants,
    )


def _rates(settings: Settings) -> RateLimits:
    return RateLimits(
        tenant=RequestRateLimiter(settings.requests_per_s, settings.request_burst, limit="FLOTILLA_REQUESTS_PER_S"),
        person=RequestRateLimiter(
            settings.requests_per_s_per_person,
            settings.request_burst_per_person,
            what="requests of one person",
            limit="FLOTILLA_REQUESTS_PER_S_PER_PERSON",
        ),
        service=RequestRateLimiter(
            settings.requests_per_s_per_service,
            settings.request_burst_per_service,
            what="requests of one service",
            limit="FLOTILLA_REQUESTS_PER_S_PER_SERVICE",
        ),
    )


def _login(settings: Settings, pool: Pool, redis: Redis) -> LoginSetup:
    origin = BrowserOriginPolicy(settings.public_url)
    ui = settings.temporal_ui_url
    return LoginSetup(
        sign_ins=SignInSessions(
            pool,
            origin,
            last_s=settings.console_login_s,
            cache_s=settings.key_cache_s,
            issuer=settings.oidc_issuer or LOCAL_ISSUER,
        ),
        code_flow=_code_flow(settings, redis, origin),
        by_key=settings.console_key_login,
        trace_url_template=settings.trace_url_template,
        temporal_ui_url=f"{ui}/namespaces/{quote(settings.temporal_namespace, safe='')}" if ui else None,
    )


def _code_flow(settings: Settings, redis: Redis, origin: BrowserOriginPolicy) -> AuthorizationCodeFlow | None:
    tokens = _oidc(settings, settings.oidc_client_id)
    if tokens is None or settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    secret = settings.oidc_client_secret
    client = OidcClient(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=secret.get_secret_value() if secret else None,
        redirect_uri=f"{settings.public_url}{CALLBACK}",
        scopes=settings.oidc_scopes,
        ca_file=settings.oidc_ca_file,
    )
    return AuthorizationCodeFlow(OidcProvider(client), tokens, LoginAttempts(redis), origin)


def _oidc(settings: Settings, audience: str | None) -> OidcTokens | None:
    if settings.oidc_issuer is None or audience is None:
        return None
    options = OidcTokenOptions(
        issuer=settings.oidc_issuer,
        audience=audience,
        algorithms=settings.oidc_algorithms,
        roles_claim=settings.oidc_roles_claim,
        tenant_claim=settings.oidc_tenant_claim,
        tenant=settings.oidc_tenant,
        person_claim=settings.oidc_person_claim,
        groups_claim=settings.oidc_groups_claim,
    )
    return OidcTokens(options, Jwks(settings.oidc_issuer, settings.oidc_jwks_url, ca_file=settings.oidc_ca_file))


def main() -> int:
    """Runs the service; returns the exit code."""
    return serve(SERVICE, Settings, run)


if __name__ == "__main__":
    raise SystemExit(main())
