"""A2A 1.0: agent cards, JSON-RPC and HTTP+JSON. The operations are `gateway.a2a.handler`'s, the wire is the SDK's."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

from a2a.server.context import ServerCallContext
from a2a.server.routes.common import ServerCallContextBuilder
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.server.routes.rest_dispatcher import RestDispatcher
from a2a.utils.constants import A2A_JSON_MEDIA_TYPE
from fastapi import Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from google.protobuf.json_format import MessageToDict
from pydantic import BaseModel, ConfigDict

from flotilla.contracts.errors import Forbidden
from gateway.a2a.cards import KEYS_PATH, AgentCards
from gateway.a2a.errors import documented_errors, problem_response
from gateway.a2a.following import TaskView
from gateway.a2a.handler import TaskOperations
from gateway.auth.principal import EVERYONE, OPERATORS
from gateway.guard import PUBLIC, allow, guarded_router
from gateway.names import EVENT_STREAM_MEDIA_TYPE
from gateway.routes.documented import documented_errors as problems
from gateway.runs.askable import QUESTIONS, Kind, find_askable
from gateway.schemas.common import ID_PATTERN
from gateway.services import Caller, Wired

router = guarded_router("a2a")
_AGENT = "/a2a/{kind}/{name}"
_CARD = "/.well-known/agent-card.json"
_TASK = f"{_AGENT}/tasks/{{id}}"
_RECEIVERS = f"{_TASK}/pushNotificationConfigs"
_CHANGES = frozenset(
    {
        "SendMessage",
        "SendStreamingMessage",
        "CancelTask",
        "CreateTaskPushNotificationConfig",
        "DeleteTaskPushNotificationConfig",
    }
)
"""The methods that take the role of an operator."""
KindOf: TypeAlias = Annotated[Kind, Path(description="`workflows` or `agents`.")]
NameOf: TypeAlias = Annotated[str, Path(pattern=ID_PATTERN, description="Its name.")]
TaskId: TypeAlias = Annotated[str, Path(alias="id", description="The task's id.")]
PushId: TypeAlias = Annotated[str, Path(alias="push_id", description="The receiver's id.")]
_STREAM = {EVENT_STREAM_MEDIA_TYPE: {"schema": {"type": "string"}}}
_OBJECT = {"schema": {"type": "object"}}
_DOCUMENTED: dict[int | str, dict[str, Any]] = {
    200: {"description": "As the protocol has it.", "content": {A2A_JSON_MEDIA_TYPE: _OBJECT}},
    **documented_errors(),
}
_STREAMED = {**_DOCUMENTED, 200: {"description": "Its events.", "content": _STREAM}}
_CALLED = {**_DOCUMENTED, 200: {"description": "A JSON-RPC response, or a stream of them.", "content": _STREAM}}


class JsonRpcRequest(BaseModel):
    """A JSON-RPC 2.0 request, as A2A 1.0 describes them."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "0197f1a2-7c51"}}]
        },
    )


class SentMessage(BaseModel):
    """`SendMessageRequest` of A2A 1.0."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {"message": {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "Who may approve a refund?"}]}}
            ]
        },
    )


class PushConfig(BaseModel):
    """`TaskPushNotificationConfig` of A2A 1.0."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"id": "hook", "url": "https://hooks.example.com/a2a"}]}
    )


class _Contexts(ServerCallContextBuilder):
    """What the protocol's code is given of a request."""

    def build(self, request: Request) -> ServerCallContext:
        return ServerCallContext(state={"headers": dict(request.headers)})


async def _operations(services: Wired, caller: Caller, request: Request, kind: KindOf, name: NameOf) -> TaskOperations:
    agent = await find_askable(services.pool, kind, name)
    return TaskOperations(TaskView(services, request, caller, agent), AgentCards.of(services))


Operations: TypeAlias = Annotated[TaskOperations, Depends(_operations)]


@router.get(_CARD, responses=problems())
@allow(PUBLIC, any_query=True)
async def get_fleet_card(services: Wired, request: Request) -> Response:
    """Return the card of the agent that answers questions. It is public; those of others take credentials."""
    return _card(AgentCards.of(services), request)


@router.get(KEYS_PATH, responses=problems())
@allow(PUBLIC, any_query=True)
async def get_card_keys(services: Wired) -> Response:
    """Return the keys that sign cards."""
    return JSONResponse(AgentCards.of(services).public_keys())


@router.get(f"/a2a/workflows/rag{_CARD}", responses=_DOCUMENTED)
@allow(PUBLIC, any_query=True)
async def get_question_card(services: Wired, request: Request) -> Response:
    """Return the same card, where its agent is served."""
    return _card(AgentCards.of(services), request)


@router.get(f"{_AGENT}{_CARD}", responses=_DOCUMENTED)
@allow(EVERYONE, for_others=True, any_query=True)
async def get_card(services: Wired, _caller: Caller, request: Request, kind: KindOf, name: NameOf) -> Response:
    """Return the card of a workflow or an agent."""
    card = AgentCards.of(services).card(request, await find_askable(services.pool, kind, name))
    return JSONResponse(MessageToDict(card))


@router.post(_AGENT, responses=_CALLED)
@router.post(f"{_AGENT}/", responses=_CALLED)
@allow(EVERYONE, for_others=True, any_query=True)
async def call(operations: Operations, caller: Caller, request: Request, body: JsonRpcRequest) -> Response:
    """Call a method by JSON-RPC; those that change something take the role `operator`."""
    method = (body.model_extra or {}).get("method")
    if isinstance(method, str) and method in _CHANGES and not caller.roles & OPERATORS:
        raise Forbidden(f"{method} takes the role admin or operator")
    return await _answered(operations, JsonRpcDispatcher(operations, _Contexts()).handle_requests, request)


@router.post(f"{_AGENT}/message:send", responses=_DOCUMENTED)
@allow(OPERATORS, for_others=True, any_query=True)
async def send_message(operations: Operations, request: Request, _body: SentMessage) -> Response:
    """Start a task, or hand a further message to one."""
    return await _answered(operations, _rest(operations).on_message_send, request)


@router.post(f"{_AGENT}/message:stream", responses=_STREAMED)
@allow(OPERATORS, for_others=True, any_query=True)
async def stream_message(operations: Operations, request: Request, _body: SentMessage) -> Response:
    """The same, streamed."""
    return await _answered(operations, _rest(operations).on_message_send_stream, request)


@router.get(f"{_TASK}:subscribe", responses=_STREAMED)
@router.post(f"{_TASK}:subscribe", responses=_STREAMED)
@allow(EVERYONE, for_others=True, any_query=True)
async def subscribe_to_task(operations: Operations, request: Request, _task_id: TaskId) -> Response:
    """Stream an open task: first as it is, then what changes."""
    return await _answered(operations, _rest(operations).on_subscribe_to_task, request)


@router.post(f"{_TASK}:cancel", responses=_DOCUMENTED)
@allow(OPERATORS, for_others=True, any_query=True)
async def cancel_task(operations: Operations, request: Request, _task_id: TaskId) -> Response:
    """Ask a task to stop."""
    return await _answered(operations, _rest(operations).on_cancel_task, request)


@router.get(_TASK, responses=_DOCUMENTED)
@allow(EVERYONE, for_others=True, any_query=True)
async def get_task(operations: Operations, request: Request, _task_id: TaskId) -> Response:
    """Return a task."""
    return await _answered(operations, _rest(operations).on_get_task, request)


@router.get(f"{_AGENT}/tasks", responses=_DOCUMENTED)
@allow(EVERYONE, for_others=True, any_query=True)
async def list_tasks(operations: Operations, request: Request) -> Response:
    """List the agent's tasks, what changed last first."""
    return await _answered(operations, _rest(operations).list_tasks, request)


@router.post(_RECEIVERS, responses=_DOCUMENTED)
@allow(OPERATORS, for_others=True, any_query=True)
async def add_receiver(operations: Operations, request: Request, _task_id: TaskId, _body: PushConfig) -> Response:
    """Notify a receiver of a task."""
    return await _answered(operations, _rest(operations).set_push_notification, request)


@router.get(_RECEIVERS, responses=_DOCUMENTED)
@allow(EVERYONE, for_others=True, any_query=True)
async def list_receivers(operations: Operations, request: Request, _task_id: TaskId) -> Response:
    """List who is notified of a task."""
    return await _answered(operations, _rest(operations).list_push_notifications, request)


@router.get(f"{_RECEIVERS}/{{push_id}}", responses=_DOCUMENTED)
@allow(EVERYONE, for_others=True, any_query=True)
async def get_receiver(operations: Operations, request: Request, _task_id: TaskId, _push_id: PushId) -> Response:
    """Return one of them."""
    return await _answered(operations, _rest(operations).get_push_notification, request)


@router.delete(f"{_RECEIVERS}/{{push_id}}", responses=_DOCUMENTED)
@allow(OPERATORS, for_others=True, any_query=True)
async def drop_receiver(operations: Operations, request: Request, _task_id: TaskId, _push_id: PushId) -> Response:
    """Notify one of them no longer."""
    return await _answered(operations, _rest(operations).delete_push_notification, request)


@router.get(f"{_AGENT}/extendedAgentCard", responses=_DOCUMENTED)
@allow(EVERYONE, for_others=True, any_query=True)
async def get_extended_card(operations: Operations, request: Request) -> Response:
    """Return the agent's card with its schemas, and what else the fleet serves."""
    return await _answered(operations, _rest(operations).handle_authenticated_agent_card, request)


def _card(cards: AgentCards, request: Request) -> Response:
    return JSONResponse(MessageToDict(cards.card(request, QUESTIONS)))


def _rest(operations: TaskOperations) -> RestDispatcher:
    return RestDispatcher(operations, _Contexts())


async def _answered(
    operations: TaskOperations, handle: Callable[[Request], Awaitable[Response]], request: Request
) -> Response:
    response = await handle(request)
    if operations.refusal is not None:
        return problem_response(operations.refusal, request.url.path)
    return response
