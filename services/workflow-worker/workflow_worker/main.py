"""Composition root of `workflow-worker`: opens everything, wires it, works until asked to stop, drains."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import httpx
import structlog
from temporalio.client import Client
from temporalio.worker import Worker

from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.audit.admin_log import record_policies_until
from flotilla.bus import Consumer, ConsumerOptions, DeadLetters, Handler, Redis, check_redis, connect_redis
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore
from flotilla.bus.housekeeping import BusHousekeeping
from flotilla.bus.known_agents import KnownAgents
from flotilla.bus.live import LiveRunWriter
from flotilla.config.signing import Signer, load_signer
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import BRIDGE_GROUP, REDRIVES_STREAM, REPLIES_STREAM, reply_stream
from flotilla.encryption import open_keyring
from flotilla.llm import ExtractiveModel, create_model
from flotilla.postgres import Pool, check_schema, open_service_pool
from flotilla.postgres.workflow_ciphers import create_workflow_ciphers
from flotilla.runtime import Job, Runtime, http_server, serve
from flotilla.votes.roots import VoteRoots, read_vote_roots
from flotilla.workflows.declaration import DeclaredWorkflow
from workflow_worker.actions.registry import ActionHandlerRegistry, load_action_handlers
from workflow_worker.activities import webhooks
from workflow_worker.activities.actions import ActionActivities
from workflow_worker.activities.approvals import ApprovalActivities
from workflow_worker.activities.delegation import DelegationActivities
from workflow_worker.activities.gated_calls import GatedCallActivities
from workflow_worker.activities.orders import OrderActivities
from workflow_worker.activities.pipelines import PipelineActivities
from workflow_worker.activities.questions import QuestionActivities
from workflow_worker.activities.runs import RunActivities
from workflow_worker.activities.supervision import SupervisionActivities
from workflow_worker.activities.webhooks import WebhookActivities
from workflow_worker.activities.workflow_runs import WorkflowRunActivities
from workflow_worker.bridge import ReplyBridge
from workflow_worker.delegates import KnownDelegates
from workflow_worker.delegations import SOURCE, HopPublisher
from workflow_worker.duties import load_known_agents, make_reconciled_row_kinds, report_approval_gauges
from workflow_worker.erased_work import ErasedWorkDuty
from workflow_worker.erasures import ErasureDuty
from workflow_worker.installed_workflows import InstalledWorkflowPublisher, load_installed_workflows
from workflow_worker.leader import LeaderElection, make_repeating_duty
from workflow_worker.notices import NoticeDelivery, NoticeReceivers
from workflow_worker.queue_duty import RunQueueDuty
from workflow_worker.recent_hops import RecentHopCache
from workflow_worker.reconciler import WorkflowReconciler
from workflow_worker.redrives import RedriveHandler
from workflow_worker.reply_streams import ReplyStreamConsumers
from workflow_worker.retention import RetentionDuty
from workflow_worker.risk_review import RiskReviewer
from workflow_worker.run_events import signal_undelivered_run_events
from workflow_worker.schedule_duty import ScheduleSyncDuty
from workflow_worker.session_keys import SessionKeyIssuer, make_session_keys_app
from workflow_worker.settings import Settings
from workflow_worker.settlement import ReplySettler
from workflow_worker.temporal import TemporalConnection, create_sdk_runtime, list_activity_methods_of, make_worker
from workflow_worker.tenant_deletions import TenantDeletionDuty
from workflow_worker.unreadable_replies import UnreadableReplyHandler
from workflow_worker.webhook_signatures import decode_webhook_secret
from workflow_worker.workflows.catalog import WORKFLOWS

SERVICE = "workflow-worker"
RECONCILE_INTERVAL_S = 5.0
RETENTION_INTERVAL_S = 60.0
OPENED_RUNS_INTERVAL_S = 0.5
HTTP_TIMEOUT_S = 20.0
MAX_REDIS_CONNECTIONS = 1_000
STOP_MARGIN_AFTER_DRAIN_S = 10.0
"""For what comes after the drain: leaving the group, giving the lease up."""
log = structlog.get_logger(__name__)


async def run(settings: Settings, runtime: Runtime) -> None:
    """Works until `runtime.stop`, then drains."""
    async with AsyncExitStack() as stack:
        keyring = open_keyring(settings)
        pool = await stack.enter_async_context(open_service_pool(settings, application=SERVICE, keyring=keyring))
        redis = await stack.enter_async_context(
            # The consumer of each agent's replies holds one while it waits.
            connect_redis(
                settings.redis_url.get_secret_value(), name=runtime.instance, max_connections=MAX_REDIS_CONNECTIONS
            )
        )
        temporal = TemporalConnection(
            settings,
            create_sdk_runtime(settings.metrics_host, settings.temporal_metrics_port),
            create_workflow_ciphers(pool, keyring),
        )
        runtime.health.add_check("postgres", lambda: check_schema(pool))
        runtime.health.add_check("redis", lambda: check_redis(redis))
        runtime.health.add_check("temporal", temporal.check_temporal_ready)
        policy, registry = ReloadingPolicyFile(settings.approval_policy), load_action_handlers()
        workflows = load_installed_workflows()
        roots = read_vote_roots(settings.vote_roots)
        if await runtime.wait_until_ready():
            if keyring is not None:
                issuer = SessionKeyIssuer(pool, keyring, at_once=max(1, settings.postgres_pool_max // 4))
                await stack.enter_async_context(_serve_session_keys(settings, runtime, issuer))
            signer = load_signer(settings.ticket_key_file)
            deps = WorkerDependencies(
                pool, redis, temporal.client, policy, registry, signer, KnownDelegates(pool), roots, workflows
            )
            await run_worker_parts(settings, runtime, deps)


@asynccontextmanager
async def _serve_session_keys(settings: Settings, runtime: Runtime, issuer: SessionKeyIssuer) -> AsyncIterator[None]:
    """Answer agents that ask for keys of sessions."""
    server = http_server(make_session_keys_app(issuer), settings.http_host, settings.http_port)
    async with server.serving(partial(runtime.supervisor.task_ended_early, "http server")) as port:
        log.info("issuing_session_keys", port=port)
        yield


@dataclass(frozen=True, slots=True)
class WorkerDependencies:
    """What the worker's parts share."""

    pool: Pool
    redis: Redis
    temporal: Client
    policy: ReloadingPolicyFile
    registry: ActionHandlerRegistry
    signer: Signer
    delegates: KnownDelegates
    roots: VoteRoots = field(default_factory=VoteRoots)
    """Whose approval of a voter's key counts."""
    workflows: Sequence[DeclaredWorkflow] = ()
    """Those of installed packages, beside the built-in ones."""
    recent: RecentHopCache = field(default_factory=RecentHopCache)


async def run_worker_parts(settings: Settings, runtime: Runtime, deps: WorkerDependencies) -> None:
    """Everything that runs once the dependencies are there; until `runtime.stop`."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=HTTP_TIMEOUT_S, follow_redirects=False))
        review = _make_risk_reviewer(settings, stack)
        parts = WorkerActivities(settings, deps, http, review)
        classes = [*WORKFLOWS, *(declared.workflow for declared in deps.workflows)]
        worker = make_worker(
            deps.temporal, settings, runtime.instance, workflows=classes, activities=parts.list_activity_methods()
        )
        published = InstalledWorkflowPublisher(deps.pool, deps.workflows, settings.task_queue, runtime.instance)
        noted = partial(record_policies_until, deps.pool, settings.operator_tenant, SOURCE, deps.policy)
        await runtime.supervisor.run(
            Job(name="temporal worker", work=partial(_run_worker_until_stopped, worker), restarts=False),
            Job(name="bridge", work=_make_reply_stream_consumers(settings, runtime, deps).start_consumers_until),
            Job(name="leader", work=_make_leader_election(settings, runtime, deps, parts, http).campaign_until),
            Job(name="policy", work=deps.policy.reload_until_stopped),
            Job(name="policy record", work=noted),
            Job(name="workflow catalog", work=published.publish_until),
            limit_s=settings.drain_s + STOP_MARGIN_AFTER_DRAIN_S,
        )


class WorkerActivities:
    """The activities, each with what it needs."""

    def __init__(
        self, settings: Settings, deps: WorkerDependencies, http: httpx.AsyncClient, review: RiskReviewer | None
    ) -> None:
        secret = settings.approval_webhook_secret
        receivers = webhooks.WebhookReceivers(
            settings.approval_webhook_urls, decode_webhook_secret(secret.get_secret_value()) if secret else b""
        )
        publisher = HopPublisher(deps.pool, deps.redis, deps.delegates, deps.recent)
        self.delegation = DelegationActivities(
            deps.pool, deps.redis, publisher, deps.signer, KnownAgents(deps.pool, deps.redis, settings.agents)
        )
        self.runs = RunActivities(deps.pool, LiveRunWriter(deps.redis), settings)
        self.workflow_runs = WorkflowRunActivities(deps.pool)
        self.questions = QuestionActivities(deps.pool)
        self.supervision = SupervisionActivities(deps.pool)
        self.approvals = ApprovalActivities(deps.pool, receivers.urls)
        self.orders = OrderActivities(deps.pool)
        self.pipelines = PipelineActivities(deps.pool)
        self.gated_calls = GatedCallActivities(deps.pool)
        self.webhooks = WebhookActivities(deps.pool, http, receivers)
        self.actions = ActionActivities(
            deps.pool,
            deps.policy,
            deps.registry,
            http,
            allowed_hosts=settings.action_http_hosts,
            risk_review=review,
            signer=deps.signer,
            roots=deps.roots,
        )

    def list_activity_methods(self) -> list[Callable[..., Any]]:
        """Every method that is an activity."""
        return [method for part in vars(self).values() for method in list_activity_methods_of(part)]


def _make_risk_reviewer(settings: Settings, stack: AsyncExitStack) -> RiskReviewer | None:
    if not settings.approval_risk_review:
        return None
    model = create_model(settings)
    if isinstance(model, ExtractiveModel):
        raise ConfigurationError("FLOTILLA_APPROVAL_RISK_REVIEW needs a language model: set OPENAI_API_KEY")
    stack.push_async_callback(model.close)
    return RiskReviewer(model)


def _make_leader_election(
    settings: Settings, runtime: Runtime, deps: WorkerDependencies, parts: WorkerActivities, http: httpx.AsyncClient
) -> LeaderElection:
    all_kinds = make_reconciled_row_kinds(parts.runs, parts.actions, parts.orders, parts.pipelines, parts.gated_calls)
    reconciler = WorkflowReconciler(deps.pool, deps.temporal, settings.task_queue, all_kinds)
    housekeeping = BusHousekeeping(
        deps.redis, lambda: load_known_agents(deps.pool), PostgresDeadLetterStore(deps.pool).count_open_by_stream
    )
    events = partial(signal_undelivered_run_events, deps.pool, deps.temporal)
    notices = NoticeDelivery(deps.pool, http, NoticeReceivers(settings.notify_hosts, settings.notify_secrets))
    queue = RunQueueDuty(deps.pool, deps.temporal, parts.runs)
    duties = [
        housekeeping.run,
        notices.deliver_until,
        make_repeating_duty(RECONCILE_INTERVAL_S, reconciler.run_round),
        make_repeating_duty(OPENED_RUNS_INTERVAL_S, reconciler.start_opened_runs),
        make_repeating_duty(RECONCILE_INTERVAL_S, queue.run_once),
        make_repeating_duty(RECONCILE_INTERVAL_S, ErasureDuty(deps.pool).run_once),
        make_repeating_duty(RECONCILE_INTERVAL_S, ErasedWorkDuty(deps.pool, deps.temporal, all_kinds).run_once),
        make_repeating_duty(RETENTION_INTERVAL_S, RetentionDuty(deps.pool).run_once),
        make_repeating_duty(
            RECONCILE_INTERVAL_S, TenantDeletionDuty(deps.pool, deps.temporal, settings.operator_tenant).run_once
        ),
        make_repeating_duty(
            RECONCILE_INTERVAL_S, ScheduleSyncDuty(deps.pool, deps.temporal, settings.task_queue).run_round
        ),
        make_repeating_duty(RECONCILE_INTERVAL_S, events),
        report_approval_gauges(deps.pool),
    ]
    return LeaderElection(deps.pool, SERVICE, runtime.instance, duties, runtime.supervisor)


def _make_reply_stream_consumers(
    settings: Settings, runtime: Runtime, deps: WorkerDependencies
) -> ReplyStreamConsumers:
    settlement = ReplySettler(deps.pool, deps.signer, deps.recent)
    publisher = HopPublisher(deps.pool, deps.redis, deps.delegates, deps.recent)
    bridge = ReplyBridge(deps.temporal, deps.redis, settlement, publisher)
    letters = PostgresDeadLetterStore(deps.pool, settings.operator_tenant)
    options = ConsumerOptions(concurrency=settings.bridge_slots, grace_s=settings.drain_s)

    def consumer(
        stream: str, handler: Handler, kept: DeadLetters = letters, options: ConsumerOptions = options
    ) -> Consumer:
        return Consumer(deps.redis, stream, BRIDGE_GROUP, runtime.instance, handler, options, kept)

    def replies_of(agent: str) -> Consumer:
        unreadable = UnreadableReplyHandler(agent, deps.pool, letters, bridge.fail_open_task)
        # Its caller waits: nobody reads it better at the fifth delivery.
        at_once = replace(options, max_undecodable_deliveries=1)
        return consumer(reply_stream(agent), partial(bridge.handle_reply, agent), unreadable, at_once)

    redrives = RedriveHandler(deps.pool, deps.redis, deps.signer)
    others = {
        "former replies": consumer(REPLIES_STREAM, bridge.handle_former_reply),
        "redrives": consumer(REDRIVES_STREAM, redrives.handle_redrive),
    }
    return ReplyStreamConsumers(deps.delegates, others, replies_of, runtime.supervisor)


async def _run_worker_until_stopped(worker: Worker, stop: asyncio.Event) -> None:
    async with worker:
        await stop.wait()


def main() -> int:
    """Runs the service; returns the exit code."""
    return serve(SERVICE, Settings, run)


if __name__ == "__main__":
    raise SystemExit(main())
