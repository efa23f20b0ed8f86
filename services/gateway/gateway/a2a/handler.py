"""The protocol's operations over runs. Every replica answers for every task: nothing is kept in the process."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from functools import wraps
from http import HTTPStatus
from typing import Any, TypeVar

import structlog
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler, validate_request_params
from a2a.types.a2a_pb2 import (
    AgentCard,
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetExtendedAgentCardRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTaskPushNotificationConfigsResponse,
    ListTasksRequest,
    ListTasksResponse,
    Message,
    SendMessageConfiguration,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskArtifactUpdateEvent,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.constants import DEFAULT_LIST_TASKS_PAGE_SIZE
from a2a.utils.errors import (
    A2AError,
    ContentTypeNotSupportedError,
    InternalError,
    InvalidParamsError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    UnsupportedOperationError,
)
from a2a.utils.task import apply_history_length, validate_history_length, validate_page_size

from flotilla.contracts.a2a import DEFAULT_SECRET
from flotilla.contracts.ids import new_id
from flotilla.contracts.names import is_valid_id
from flotilla.contracts.requests import OutsideEvent
from flotilla.postgres import Connection
from gateway.a2a.answering import answer_question
from gateway.a2a.cards import AgentCards, agent_path
from gateway.a2a.errors import a2a_error, task_ended_error
from gateway.a2a.following import TaskView, Update
from gateway.a2a.records import (
    PushReceiver,
    TaskFilter,
    add_push_receiver,
    check_push_receiver,
    list_push_receivers,
    list_task_runs,
    push_receiver_not_found,
    remove_push_receiver,
    set_push_receiver,
)
from gateway.a2a.tasks import MODES, is_task_open, message_idempotency_key, message_metadata, said, task_from_run
from gateway.idempotency import IdempotencyClaim
from gateway.paging import next_time_cursor, read_time_cursor
from gateway.problems import Problem, problem_from_error
from gateway.runs.askable import list_askable
from gateway.runs.cancelling import cancel_run_and_agents
from gateway.runs.outside_events import store_and_signal_event
from gateway.runs.starting import start_or_find_run
from gateway.runs.waiting import wait_for_finished_run
from gateway.schemas.runs import Run

WAIT_S = 600.0
"""The longest that a request waits for its task; then it gets the task as it is."""
CANCELLED_WITHIN_S = 5.0
MESSAGE_EVENT = "message"
"""The event from outside that a further message is to a run of a workflow."""
STANDARD_WEBHOOKS = "standard-webhooks"
_SETTLED = frozenset(
    {
        TaskState.TASK_STATE_COMPLETED,
        TaskState.TASK_STATE_FAILED,
        TaskState.TASK_STATE_CANCELED,
        TaskState.TASK_STATE_REJECTED,
        TaskState.TASK_STATE_AUTH_REQUIRED,
        TaskState.TASK_STATE_INPUT_REQUIRED,
    }
)
"""In which nothing continues before people act."""
P = TypeVar("P")
R = TypeVar("R")
Operation = Callable[[Any, P, ServerCallContext], Coroutine[Any, Any, R]]
log = structlog.get_logger(__name__)


class HttpRefusal(InternalError):
    """What HTTP has to say: who may not, limits, stores that are away; the route answers with the `refusal`."""


def _translated(operation: Operation[P, R]) -> Operation[P, R]:
    """Let an operation raise the protocol's errors only."""

    @wraps(operation)
    async def translated(self: "TaskOperations", params: P, context: ServerCallContext) -> R:
        with self.translate_errors():
            return await operation(self, params, context)

    return translated


class TaskOperations(RequestHandler):
    """The operations of one request, about one agent, as one caller."""

    def __init__(self, view: TaskView, cards: AgentCards) -> None:
        self._view = view
        self._services = view.services
        self._caller = view.caller
        self._cards = cards
        self.refusal: Problem | None = None
        """What the request is to be answered with instead of what the operation returned."""

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn errors into the protocol's; those that it has none for are left to the route, without their text."""
        try:
            yield
        except A2AError:
            raise
        except Exception as error:
            known = a2a_error(error)
            if known is not None:
                raise known from error
            self.refusal = problem_from_error(error)
            if self.refusal.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                log.exception("a2a_operation_failed", agent=self._view.agent.name)
            raise HttpRefusal from error

    @validate_request_params
    @_translated
    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Task:
        """Start a task, or hand a further message to one; wait until it is settled, unless asked not to."""
        run = await self._take(params)
        configuration = params.configuration
        if not configuration.return_immediately:
            return apply_history_length(await self._settled(run), configuration)
        return apply_history_length(await self._view.task(run), configuration)

    @validate_request_params
    async def on_message_send_stream(
        self, params: SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Update, None]:
        """The same, and stream the task until it is over."""
        async for update in self._stream(params, self._take):
            yield update

    @validate_request_params
    async def on_subscribe_to_task(
        self, params: SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Update, None]:
        """Stream an open task from now on: first as it is."""

        async def open_run(asked: SubscribeToTaskRequest) -> Run:
            run = await self._view.run(asked.id)
            if not is_task_open(run):
                raise task_ended_error(task_from_run(run))
            return run

        async for update in self._stream(params, open_run):
            yield update

    @validate_request_params
    @_translated
    async def on_get_task(self, params: GetTaskRequest, context: ServerCallContext) -> Task:
        """Return a task as it is."""
        validate_history_length(params)
        return apply_history_length(await self._view.task(await self._view.run(params.id)), params)

    @validate_request_params
    @_translated
    async def on_list_tasks(self, params: ListTasksRequest, context: ServerCallContext) -> ListTasksResponse:
        """Return a page of tasks, what changed last first."""
        validate_history_length(params)
        size = params.page_size if params.HasField("page_size") else DEFAULT_LIST_TASKS_PAGE_SIZE
        validate_page_size(size)
        only = TaskFilter(
            session_id=_session_of(params.context_id) if params.context_id else None,
            state=params.status,
            changed_after=_moment(params) if params.HasField("status_timestamp_after") else None,
        )
        before = read_time_cursor(params.page_token or None)
        rows, runs, count = await list_task_runs(
            self._services, self._caller.tenant_id, self._view.agent, only, limit=size, before=before
        )
        tasks = [await self._view.task(run, artifacts=params.include_artifacts) for run in runs]
        return ListTasksResponse(
            tasks=[apply_history_length(task, params) for task in tasks],
            next_page_token=next_time_cursor(rows, size, "run_id", "changed_at") or "",
            page_size=size,
            total_size=count,
        )

    @validate_request_params
    @_translated
    async def on_cancel_task(self, params: CancelTaskRequest, context: ServerCallContext) -> Task:
        """Ask a task to stop; return it as it is after that."""
        run = await self._view.run(params.id)
        if not is_task_open(run):
            raise TaskNotCancelableError(f"task {params.id} is over: {run.status}")
        await cancel_run_and_agents(self._services, self._caller, run.run_id)
        await wait_for_finished_run(self._services, self._caller.tenant_id, run.run_id, CANCELLED_WITHIN_S)
        return await self._view.task(await self._view.run(params.id))

    @validate_request_params
    @_translated
    async def on_create_task_push_notification_config(
        self, params: TaskPushNotificationConfig, context: ServerCallContext
    ) -> TaskPushNotificationConfig:
        """Notify a receiver of a task; one of the same id is replaced."""
        run = await self._view.run(params.task_id)
        receiver = self._receiver(params)
        await set_push_receiver(self._services, self._caller, run, receiver)
        return _config(run.run_id, receiver)

    @validate_request_params
    @_translated
    async def on_get_task_push_notification_config(
        self, params: GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> TaskPushNotificationConfig:
        """Return a receiver, without its token."""
        for receiver in await self._receivers(params.task_id):
            if receiver.config_id == params.id:
                return _config(params.task_id, receiver)
        raise push_receiver_not_found(params.task_id, params.id)

    @validate_request_params
    @_translated
    async def on_list_task_push_notification_configs(
        self, params: ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> ListTaskPushNotificationConfigsResponse:
        """Return all receivers of a task, without their tokens."""
        found = await self._receivers(params.task_id)
        return ListTaskPushNotificationConfigsResponse(configs=[_config(params.task_id, one) for one in found])

    @validate_request_params
    @_translated
    async def on_delete_task_push_notification_config(
        self, params: DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        """Notify a receiver no longer."""
        run = await self._view.run(params.task_id)
        if not is_valid_id(params.id):
            raise push_receiver_not_found(run.run_id, params.id)
        await remove_push_receiver(self._services, self._caller.tenant_id, run.run_id, params.id)

    @_translated
    async def on_get_extended_agent_card(
        self, params: GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> AgentCard:
        """Return the agent's card with its schemas, and what else the fleet serves."""
        return self._cards.card(self._view.request, self._view.agent, await list_askable(self._services.pool))

    async def _stream(self, params: P, find: Callable[[P], Awaitable[Run]]) -> AsyncGenerator[Update, None]:
        with self.translate_errors():
            self._services.streams.check_slot_free(self._caller.tenant_id)
            run = await find(params)
            async with aclosing(self._view.stream_updates(run)) as updates:  # type: ignore[type-var]
                async for update in updates:
                    yield update

    async def _settled(self, run: Run) -> Task:
        """Return the task once it is settled, or as it is after the longest wait."""
        self._services.streams.check_slot_free(self._caller.tenant_id)
        try:
            async with asyncio.timeout(WAIT_S):
                await self._until_settled(self._view.stream_updates(run))
        except TimeoutError:
            log.info("a2a_task_goes_on", run_id=run.run_id)
        await self._view.recheck_access()  # the wait may have ended because the caller may not read the task any more
        return await self._view.task(await self._view.run(run.run_id))

    async def _until_settled(self, updates: AsyncIterator[Update]) -> None:
        async with aclosing(updates):  # type: ignore[type-var]
            async for update in updates:
                if not isinstance(update, TaskArtifactUpdateEvent) and update.status.state in _SETTLED:
                    return

    async def _take(self, params: SendMessageRequest) -> Run:
        message, configuration = params.message, params.configuration
        _check_modes(configuration)
        validate_history_length(configuration)
        if message.task_id:
            return await self._hand_over(params)
        text, data = said(message)
        body = self._view.agent.to_run_request(text, data)
        body = body.model_copy(update={"metadata": message_metadata(message), "if_active": "enqueue"})
        session_id = _session_of(message.context_id)
        receiver = self._first_receiver(configuration)

        async def note(connection: Connection, run_id: str) -> None:
            if receiver is not None:
                await add_push_receiver(connection, self._caller, run_id, session_id, receiver)

        content = [message.context_id, body.model_dump(exclude={"wait_s"})]
        claim = IdempotencyClaim(
            self._caller, f"POST {agent_path(self._view.agent)}", message_idempotency_key(message), content
        )
        return await start_or_find_run(self._services, session_id, body, claim, note=note)

    async def _hand_over(self, params: SendMessageRequest) -> Run:
        """Hand a further message to a run: the answer to its question, or an event of its workflow; never a vote."""
        message = params.message
        run = await self._view.run(message.task_id)
        if message.context_id and message.context_id != run.session_id:
            raise InvalidParamsError(f"task {run.run_id} belongs to context {run.session_id}")
        if not is_task_open(run):
            raise task_ended_error(task_from_run(run))
        waiting = await self._view.waiting(run)
        if waiting.approvals:
            raise UnsupportedOperationError(f"task {run.run_id} waits for people: a message is not a vote")
        if waiting.questions:
            await answer_question(self._services, self._further(run, message), message, waiting)
            return await self._view.run(run.run_id)
        if self._view.agent.takes_only_a_question:
            raise UnsupportedOperationError(
                f"task {run.run_id} answers a question and takes no further message: send it without the task id"
            )
        text, data = said(message)
        event = OutsideEvent(event_id=new_id(), name=MESSAGE_EVENT, data={"text": text, "data": data})
        await store_and_signal_event(self._services, self._caller, run.run_id, event, self._further(run, message))
        return run

    def _further(self, run: Run, message: Message) -> IdempotencyClaim:
        route = f"POST {agent_path(self._view.agent)}"
        return IdempotencyClaim(self._caller, route, message_idempotency_key(message), [run.run_id, *said(message)])

    def _first_receiver(self, configuration: SendMessageConfiguration) -> PushReceiver | None:
        if not configuration.HasField("task_push_notification_config"):
            return None
        return self._receiver(configuration.task_push_notification_config)

    def _receiver(self, config: TaskPushNotificationConfig) -> PushReceiver:
        if not self._services.notify_hosts:
            raise PushNotificationNotSupportedError("this fleet sends no notices: FLOTILLA_NOTIFY_HOSTS is empty")
        secret = DEFAULT_SECRET
        if config.HasField("authentication"):
            if config.authentication.scheme.lower() != STANDARD_WEBHOOKS:
                raise InvalidParamsError(
                    f"authentication: set scheme to {STANDARD_WEBHOOKS}, and credentials to the name of the secret "
                    "that signs the notices"
                )
            secret = config.authentication.credentials
        if config.id and not is_valid_id(config.id):
            raise InvalidParamsError("id: letters, digits and ._:-, at most 128")
        receiver = PushReceiver(config_id=config.id or new_id(), url=config.url, token=config.token, secret_ref=secret)
        check_push_receiver(self._services, receiver)
        return receiver

    async def _receivers(self, task_id: str) -> list[PushReceiver]:
        run = await self._view.run(task_id)
        return await list_push_receivers(self._services, self._caller.tenant_id, run.run_id)


def _config(task_id: str, receiver: PushReceiver) -> TaskPushNotificationConfig:
    return TaskPushNotificationConfig(id=receiver.config_id, task_id=task_id, url=receiver.url)


def _session_of(context_id: str) -> str:
    if context_id and not is_valid_id(context_id):
        raise InvalidParamsError("message.context_id: letters, digits and ._:-, at most 128")
    return context_id or f"a2a-{new_id()}"


def _check_modes(configuration: SendMessageConfiguration) -> None:
    accepted = set(configuration.accepted_output_modes)
    if accepted and accepted.isdisjoint({*MODES, "*/*", "text/*", "application/*", "text"}):
        raise ContentTypeNotSupportedError(f"the fleet answers with {' and '.join(MODES)}")


def _moment(params: ListTasksRequest) -> datetime:
    return params.status_timestamp_after.ToDatetime(tzinfo=UTC)
