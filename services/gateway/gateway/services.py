"""What route handlers work with, made once by the composition root."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from fastapi import Depends
from starlette.requests import Request

from flotilla.approvals.policy import ApprovalPolicy
from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.bus import Redis
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore
from flotilla.bus.known_agents import KnownAgents
from flotilla.config.signing import PublicKeys
from flotilla.contracts.errors import Forbidden
from flotilla.eventstore import AgentEventStore
from flotilla.eventstore.sessions import SessionAccess, Visibility
from flotilla.kafka.session_log import KafkaEventLog
from flotilla.knowledge import KnowledgeBase
from flotilla.postgres import Pool, SuspendedTenants
from flotilla.runtime.confined import FunctionRunner
from flotilla.runtime.stopping import sleep_or_stop
from flotilla.votes.roots import VoteRoots
from gateway.auth.api_keys import ApiKeys
from gateway.auth.principal import Principal
from gateway.auth.sign_ins import SignInSessions
from gateway.card_key import AgentCardKey
from gateway.embedding_turns import EmbeddingQueue
from gateway.fleet.samples import Samples
from gateway.limits import EventStreamSlots
from gateway.live.feed import LiveStreamWatch
from gateway.live.run_watch import RunWatch
from gateway.login.code_flow import AuthorizationCodeFlow
from gateway.names import SOURCE
from gateway.open_work import OpenWorkLimits
from gateway.temporal import TemporalGateway

PAUSE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSetup:
    """How people log in to the console, and where it sends them to look further."""

    sign_ins: SignInSessions
    code_flow: AuthorizationCodeFlow | None
    """None where no OpenID provider is set up for logins."""
    by_key: bool
    trace_url_template: str | None
    temporal_ui_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayServices:
    """Connections and what is built on them."""

    pool: Pool
    tenants: SuspendedTenants
    redis: Redis
    temporal: TemporalGateway
    kafka_log: KafkaEventLog
    knowledge: KnowledgeBase
    embedding_turns: EmbeddingQueue
    run_confined: FunctionRunner
    """Checks answers against schemas that clients send, in a process that can be killed."""
    policies: ReloadingPolicyFile
    vote_roots: VoteRoots
    """Whose approval of a voter's key counts."""
    dead_letters: PostgresDeadLetterStore
    api_keys: ApiKeys
    login: LoginSetup
    agents: KnownAgents
    audit_keys: PublicKeys | None
    """Whose signatures of checkpoints count; None checks none."""
    operator_tenant: str
    notify_hosts: tuple[str, ...]
    """Who may get notices of runs."""
    card_key: AgentCardKey | None
    """None leaves agent cards unsigned."""
    public_url: str | None
    """Where people and programs find the gateway; None: whatever they asked."""
    mcp_hosts: tuple[str, ...]
    """Further names that clients of `/mcp` call the gateway by."""
    mcp_wait_s: float
    """How long a call of a tool waits before its client is asked to call again."""
    cors_origins: tuple[str, ...]
    """Whose pages may send requests to `/mcp`."""
    oidc_issuer: str | None
    browser_tokens: ApiKeys
    browser_token_max_s: int
    """The longest that one may last."""
    open_work: OpenWorkLimits
    """How much may be under way."""
    people_issuer: str
    """Who vouches for people where nothing else is said: the OpenID provider, or Flotilla."""
    session_visibility: Visibility
    """Of a new session."""
    feed: LiveStreamWatch
    watch: RunWatch
    samples: Samples
    """The fleet's last hour."""
    streams: EventStreamSlots
    stopping: asyncio.Event

    def check_operates_fleet(self, caller: Principal, why: str) -> None:
        """Raise Forbidden, saying `why`, unless the caller is of the operator's tenant."""
        if caller.tenant_id != self.operator_tenant:
            raise Forbidden(why)

    @property
    def current_policy(self) -> ApprovalPolicy:
        """The approval policy in force."""
        return self.policies.current_policy

    def event_store(self, tenant_id: str) -> AgentEventStore:
        """The session logs of a tenant."""
        return AgentEventStore(self.pool, tenant_id, self.kafka_log, source=SOURCE, sealed_snapshots=True)

    def access_for_new_session(self, caller: Principal) -> SessionAccess:
        """Who may read and write a session that `caller` opens."""
        return SessionAccess(owner=caller.name, visibility=self.session_visibility)

    async def sleep_or_stop(self, seconds: float = PAUSE_S) -> None:
        """Sleeps before something is tried again, but no longer than until the gateway stops."""
        await sleep_or_stop(self.stopping, seconds)


def _services(request: Request) -> GatewayServices:
    services: GatewayServices = request.app.state.services
    return services


def _caller(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


Wired: TypeAlias = Annotated[GatewayServices, Depends(_services)]
Caller: TypeAlias = Annotated[Principal, Depends(_caller)]
"""The subject of the token; set by the guard before any handler runs."""
