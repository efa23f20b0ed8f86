"""The connection to Temporal: made when Temporal first answers, so that the gateway can start before it."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from temporalio.api.failure.v1 import Failure
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from flotilla.config import TemporalSettings
from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import Invalid, NotFound, RetryLater, SessionErased, UnreadablePayload
from flotilla.encryption import ERASED, UNREADABLE
from flotilla.postgres.workflow_ciphers import WorkflowCiphers
from flotilla.temporal import TASK_TIMEOUT, check_temporal, is_permanent_error, temporal_connection_options
from flotilla.temporal_codec import is_encrypted, opened_payload

RPC_TIMEOUT = timedelta(seconds=3)
RETRY_CONNECT_S = 1.0
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkflowStart:
    """A workflow to be started; its id makes a second start find the first."""

    workflow: str
    workflow_id: str
    request: object
    task_queue: str = ""
    """Where its workers are; empty: where the built-in workflows' are."""


class TemporalGateway:
    """What the gateway asks of Temporal. Every call ends within a few seconds."""

    def __init__(self, settings: TemporalSettings, task_queue: str, ciphers: WorkflowCiphers | None = None) -> None:
        self._settings = settings
        self.ciphers = ciphers
        """What encrypts Temporal's payloads; None where this process has no root key."""
        self.task_queue = task_queue
        """Where the built-in workflows' workers are."""
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._refused_until = 0.0

    async def start_workflow(self, start: WorkflowStart) -> bool:
        """Starts the workflow, or finds it started; False when Temporal is unavailable or refuses it.

        The worker starts what is left, and closes what can't be started.
        """
        try:
            client = await self.client()
            await client.start_workflow(
                start.workflow,
                start.request,
                id=start.workflow_id,
                task_queue=start.task_queue or self.task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                task_timeout=TASK_TIMEOUT,
                rpc_timeout=RPC_TIMEOUT,
            )
        except WorkflowAlreadyStartedError:
            return True
        except (RetryLater, RPCError) as error:
            log.warning("workflow_not_started", workflow_id=start.workflow_id, error=str(error))
            return False
        return True

    async def cancel_workflow(self, workflow_id: str) -> None:
        """Asks the workflow to stop.

        Raises:
            NotFound: it never ran, or is over.
            RetryLater, Invalid: Temporal does not answer, or does not take it.
        """
        handle = await self.workflow_handle(workflow_id)
        try:
            await handle.cancel(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            raise error_from_temporal(error, workflow_id) from error

    async def cancel_even_if_not_begun(self, start: WorkflowStart) -> None:
        """Ask the workflow to stop; one that never ran begins, and stops at once, so that it records its end.

        Raises:
            NotFound: it is over.
            RetryLater, Invalid: Temporal does not answer, or does not take it.
        """
        try:
            await self.cancel_workflow(start.workflow_id)
        except NotFound:
            await self.start_workflow(start)
            await self.cancel_workflow(start.workflow_id)

    async def describe_workflow(self, workflow_id: str) -> WorkflowExecutionDescription:
        """The workflow as Temporal sees it.

        Raises:
            NotFound: Temporal does not know it.
            RetryLater: Temporal does not answer.
        """
        handle = await self.workflow_handle(workflow_id)
        try:
            return await handle.describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            raise error_from_temporal(error, workflow_id) from error

    async def workflow_handle(self, workflow_id: str) -> WorkflowHandle[Any, Any]:
        """A handle; see `client`."""
        return (await self.client()).get_workflow_handle(workflow_id)

    async def failure_message(self, failure: Failure) -> str:
        """What a failure in a workflow's history says, or a mark where that can't be read."""
        source = failure.cause if failure.cause.message else failure
        if not source.HasField("encoded_attributes"):
            return source.message
        payload = source.encoded_attributes
        try:
            if is_encrypted(payload):
                if self.ciphers is None:
                    return UNREADABLE
                payload = await opened_payload(self.ciphers, payload)
        except SessionErased:
            return ERASED
        except UnreadablePayload:
            return UNREADABLE
        return str(from_json(payload.data, dict).get("message", ""))

    async def check_ready(self) -> None:
        """Raises RetryLater until Temporal answers and has the namespace."""
        await check_temporal(await self.client(), self._settings.temporal_address)

    async def client(self) -> Client:
        """The client, made on first use.

        Raises:
            RetryLater: Temporal does not answer.
        """
        if self._client is None:
            async with self._connecting:
                self._client = await self._connect_once()
        return self._client

    async def _connect_once(self) -> Client:
        # Somebody else may have connected while this call waited for the lock.
        return self._client if self._client is not None else await self._connect()

    async def _connect(self) -> Client:
        now = asyncio.get_running_loop().time()
        away = f"Temporal at {self._settings.temporal_address} does not answer"
        if now < self._refused_until:
            raise RetryLater(away)
        try:
            async with asyncio.timeout(RPC_TIMEOUT.total_seconds()):
                return await Client.connect(
                    self._settings.temporal_address,
                    **temporal_connection_options(self._settings, self.ciphers),
                    interceptors=[TracingInterceptor()],
                )
        except (RPCError, RuntimeError, TimeoutError) as error:
            self._refused_until = asyncio.get_running_loop().time() + RETRY_CONNECT_S
            reason = str(error) or type(error).__name__
            raise RetryLater(f"{away}: {reason} (check FLOTILLA_TEMPORAL_ADDRESS)") from error


def error_from_temporal(error: RPCError, workflow_id: str) -> Exception:
    """What an answer of Temporal means for the caller."""
    if error.status == RPCStatusCode.NOT_FOUND:
        return NotFound(f"workflow {workflow_id} is not running")
    if is_permanent_error(error):
        return Invalid(f"Temporal does not take this for workflow {workflow_id}: {error}")
    return RetryLater(f"Temporal does not answer: {error}")
