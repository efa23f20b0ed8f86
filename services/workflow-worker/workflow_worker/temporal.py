"""The connection to Temporal and the worker itself."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.exceptions import ApplicationError
from temporalio.runtime import PrometheusConfig, TelemetryConfig
from temporalio.runtime import Runtime as SdkRuntime
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    Worker,
    WorkerDeploymentConfig,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from flotilla.config import TemporalSettings
from flotilla.contracts.errors import ConfigurationError, DeadLetter, Forbidden, Invalid, RetryLater, SessionErased
from flotilla.postgres import UNSTORABLE
from flotilla.postgres.workflow_ciphers import WorkflowCiphers
from flotilla.temporal import check_temporal, temporal_connection_options
from flotilla.workflows.sandbox import make_workflow_runner
from workflow_worker.settings import Settings

STICKY_QUEUE_TIMEOUT = timedelta(seconds=1)
"""How long a workflow task waits for the worker that has the workflow in memory: after a kill -9 the default of 10 s
would hold every run up (12 s became 3 s)."""
NON_RETRYABLE_ERRORS = (DeadLetter, Forbidden, Invalid, SessionErased, *UNSTORABLE)
"""What no retry of an activity changes. Not `NotFound`: a row may be on its way."""


class TemporalConnection:
    """A client that is made when Temporal first answers, so that a service can start before it."""

    def __init__(self, settings: TemporalSettings, runtime: SdkRuntime, ciphers: WorkflowCiphers | None = None) -> None:
        """`ciphers` encrypt what Temporal keeps."""
        self._settings = settings
        self._ciphers = ciphers
        self._runtime = runtime
        self._client: Client | None = None
        self._connecting = asyncio.Lock()

    @property
    def client(self) -> Client:
        """The client.

        Raises:
            RetryLater: Temporal has not answered yet.
        """
        if self._client is None:
            raise RetryLater(
                f"Temporal at {self._settings.temporal_address} has not answered yet (check FLOTILLA_TEMPORAL_ADDRESS)"
            )
        return self._client

    async def check_temporal_ready(self) -> None:
        """Raises RetryLater until Temporal answers: a readiness check that connects the first time."""
        at = self._settings.temporal_address
        try:
            async with self._connecting:
                if self._client is None:
                    self._client = await self._connect_client()
        except (RPCError, RuntimeError) as error:
            raise RetryLater(f"Temporal at {at} does not answer: {error} (check FLOTILLA_TEMPORAL_ADDRESS)") from error
        await check_temporal(self._client, at)

    async def _connect_client(self) -> Client:
        settings = self._settings
        return await Client.connect(
            settings.temporal_address,
            **temporal_connection_options(settings, self._ciphers),
            runtime=self._runtime,
            interceptors=[TracingInterceptor()],
        )


def create_sdk_runtime(host: str, port: int) -> SdkRuntime:
    """The SDK's threads, and its metrics on `host:port` (port 0: none), in seconds and with unit suffixes."""
    address = f"[{host}]" if ":" in host else host
    metrics = PrometheusConfig(
        bind_address=f"{address}:{port}", counters_total_suffix=True, unit_suffix=True, durations_as_seconds=True
    )
    return SdkRuntime(telemetry=TelemetryConfig(metrics=metrics if port else None))


def make_workflow_sandbox() -> SandboxedWorkflowRunner:
    """Workflows run in the sandbox; contracts and activity signatures are shared, not loaded again for each."""
    return make_workflow_runner("workflow_worker.activities")


class PermanentErrorInterceptor(Interceptor):
    """Lets an activity end with its reason instead of being retried until its time is over."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See Interceptor."""
        return _PermanentErrorInbound(next)


class _PermanentErrorInbound(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            return await super().execute_activity(input)
        except NON_RETRYABLE_ERRORS as error:
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error


def make_worker(
    client: Client,
    settings: Settings,
    identity: str,
    *,
    workflows: Sequence[type],
    activities: Sequence[Callable[..., Any]],
) -> Worker:
    """The Temporal worker. Its drain time is the process's.

    Raises:
        ConfigurationError: a workflow can't be loaded in the sandbox.
    """
    try:
        return _build_worker(client, settings, identity, workflows, activities)
    except RuntimeError as error:
        raise ConfigurationError(f"{error}: {error.__cause__}") from error


def _build_worker(
    client: Client,
    settings: Settings,
    identity: str,
    workflows: Sequence[type],
    activities: Sequence[Callable[..., Any]],
) -> Worker:
    return Worker(
        client,
        task_queue=settings.task_queue,
        workflows=workflows,
        activities=activities,
        interceptors=[PermanentErrorInterceptor()],
        identity=identity,
        workflow_runner=make_workflow_sandbox(),
        max_concurrent_activities=settings.max_concurrent_activities,
        max_concurrent_local_activities=settings.max_concurrent_activities,
        max_concurrent_workflow_tasks=settings.max_concurrent_workflow_tasks,
        max_cached_workflows=settings.max_cached_workflows,
        sticky_queue_schedule_to_start_timeout=STICKY_QUEUE_TIMEOUT,
        graceful_shutdown_timeout=timedelta(seconds=settings.drain_s),
        deployment_config=_deployment_config(settings),
    )


def list_activity_methods_of(part: object) -> list[Callable[..., Any]]:
    """The methods of `part` that are activities, in the order of their definition."""
    methods = [getattr(part, name) for name in vars(type(part))]
    return [method for method in methods if hasattr(method, "__temporal_activity_definition")]


def _deployment_config(settings: Settings) -> WorkerDeploymentConfig | None:
    if settings.build_id is None:
        return None
    version = WorkerDeploymentVersion(deployment_name=settings.deployment_name, build_id=settings.build_id)
    return WorkerDeploymentConfig(version=version, use_worker_versioning=True)


@contextmanager
def ignore_missing_workflow() -> Iterator[None]:
    """Go on where Temporal does not know what is to be ended, or has ended it."""
    try:
        yield
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
