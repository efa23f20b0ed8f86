"""The OpenAI-compatible API: models, chat completions and responses, each answer a run."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from sse_starlette import EventSourceResponse

from flotilla.contracts.errors import Invalid, NotFound
from flotilla.contracts.requests import OPEN_RUN_STATUSES
from flotilla.postgres import Connection
from gateway.auth.principal import EVERYONE, OPERATORS
from gateway.guard import allow, guarded_router
from gateway.names import EVENT_STREAM_MEDIA_TYPE
from gateway.openai import chat, responses
from gateway.openai.auxiliary import answer_to_client_housekeeping
from gateway.openai.conversations import asked_in, assistant_message, conversation_request, said_before
from gateway.openai.errors import PREFIX, PreviousResponseNotFound, documented_errors
from gateway.openai.following import RunFollower
from gateway.openai.formats import check_format_schema
from gateway.openai.functions import check_none_needed, functions_of, takes_conversation
from gateway.openai.headers import QuestionHeaders
from gateway.openai.messages import InputMessage, items_of
from gateway.openai.models import find_model_target, model_id, model_ids
from gateway.openai.outputs import with_answer
from gateway.openai.parameters import check_parameters
from gateway.openai.records import ask, load_request_parameters, record_conversation_end
from gateway.openai.requests import (
    RESPONSE_ID,
    ChatRequest,
    ResponsesRequest,
    answered_part,
    conversation_digest,
    last_message_text,
)
from gateway.questions.records import open_questions
from gateway.runs.askable import QUESTIONS, RunTarget
from gateway.runs.cancelling import cancel_run_and_agents
from gateway.runs.cited import EndNote
from gateway.runs.pending_approvals import list_pending_approvals
from gateway.runs.records import get_run
from gateway.runs.waiting import wait_for_finished_run
from gateway.schemas.runs import Run, RunRequest
from gateway.services import Caller, GatewayServices, Wired

router = guarded_router("openai")
_V1 = f"{PREFIX}v1"
_STREAMED = {"content": {EVENT_STREAM_MEDIA_TYPE: {"schema": {"type": "string"}}}}
_MOST = 2**53
_CANCELLED_WITHIN_S = 5.0
Headers: TypeAlias = Annotated[QuestionHeaders, Depends(QuestionHeaders)]
ResponseId: TypeAlias = Annotated[str, Path(pattern=RESPONSE_ID, description="The response's id.")]
ModelPart: TypeAlias = Annotated[str, Path(min_length=1, max_length=200, description="A part of the model's id.")]


class Model(BaseModel):
    """A model: something of the fleet that answers."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "flotilla"


class ModelList(BaseModel):
    """The models."""

    object: str = "list"
    data: list[Model]


class InputItems(BaseModel):
    """What a response was asked."""

    object: str = "list"
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool = False


@router.get(f"{_V1}/models", response_model=ModelList, responses=documented_errors())
@allow(EVERYONE, for_others=True, any_query=True)
async def list_models(services: Wired) -> ModelList:
    """List what can be asked: questions, workflows, single agents."""
    return ModelList(data=[Model(id=model) for model in await model_ids(services.pool)])


@router.get(f"{_V1}/models/{{family}}/{{name}}", response_model=Model, responses=documented_errors())
@allow(EVERYONE, for_others=True, any_query=True)
async def get_model(services: Wired, family: ModelPart, name: ModelPart) -> Model:
    """Return one of them."""
    return Model(id=model_id(await find_model_target(services.pool, f"{family}/{name}")))


@router.get(f"{_V1}/models/{{family}}/{{kind}}/{{name}}", response_model=Model, responses=documented_errors())
@allow(EVERYONE, for_others=True, any_query=True)
async def get_agent_model(services: Wired, family: ModelPart, kind: ModelPart, name: ModelPart) -> Model:
    """Return the model that is a single agent."""
    return Model(id=model_id(await find_model_target(services.pool, f"{family}/{kind}/{name}")))


@router.post(
    f"{_V1}/chat/completions",
    response_model=chat.ChatCompletion,
    responses={200: {"model": chat.ChatCompletion, "description": "The answer.", **_STREAMED}, **documented_errors()},
)
@allow(OPERATORS, free_json=True, for_others=True, any_query=True)
async def create_chat_completion(
    *,
    services: Wired,
    caller: Caller,
    request: Request,
    body: ChatRequest,
    headers: Headers,
) -> Response:
    """Answer the last message, with the conversation before it. The answer is a run of a session, as all others are."""
    check_parameters(body.model_extra or {})
    asked = await find_model_target(services.pool, body.model)
    messages = body.messages
    if (text := answer_to_client_housekeeping(messages)) is not None:
        return _fixed(body, text)
    parameters = {"model": body.model, **await _wanted(services, asked, body)}
    earlier = answered_part(messages)
    question = headers.to_question(
        "chat",
        body,
        _request(asked, body, parameters),
        parameters=parameters,
        conversation=conversation_digest(body.user, earlier) if earlier else b"",
    )
    following = RunFollower(services, request, caller, await ask(services, caller, question), parameters)
    answered = _headers(following.run)
    if body.stream:
        services.streams.check_slot_free(caller.tenant_id)
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        events = chat.completion_chunks(
            following, body.model, include_usage=include_usage, note=_noting(following, body)
        )
        return EventSourceResponse(events, headers=answered, sep="\n")
    run = await following.wait_for_answer(_noting(following, body))
    return JSONResponse(chat.completion_from_run(run, body.model, following.calls(run)), headers=answered)


def _noting(following: RunFollower, body: ChatRequest) -> EndNote:
    """What notes up to where the conversation has come, if the run has an answer."""

    async def note(connection: Connection, run: Run) -> None:
        run = with_answer(run, following.parameters)
        if run.result is None:
            return
        try:
            answer = InputMessage.model_validate(assistant_message(run.result.answer, following.calls(run)))
        except ValidationError:
            return  # too long to be sent again: no further question has it
        digest = conversation_digest(body.user, [*body.messages, answer])
        await record_conversation_end(connection, following.caller.tenant_id, run.run_id, digest)

    return note


def _fixed(body: ChatRequest, text: str) -> Response:
    if body.stream:
        return EventSourceResponse(chat.chunks_without_run(body.model, text), sep="\n")
    return JSONResponse(chat.completion_without_run(body.model, text))


@router.post(
    f"{_V1}/responses",
    response_model=responses.Response,
    responses={200: {"model": responses.Response, "description": "The response.", **_STREAMED}, **documented_errors()},
)
@allow(OPERATORS, free_json=True, for_others=True, any_query=True)
async def create_response(
    *,
    services: Wired,
    caller: Caller,
    request: Request,
    body: ResponsesRequest,
    headers: Headers,
) -> Response:
    """Answer the input: at once, streamed, or in the background. `previous_response_id` continues its session."""
    check_parameters(body.model_extra or {})
    asked = await find_model_target(services.pool, body.model)
    continued = await _continued(services, caller, body.previous_response_id) if body.previous_response_id else None
    parameters = body.model_dump(
        mode="json",
        include={"model", "background", "instructions", "metadata", "previous_response_id", "user"},
        exclude_none=True,
    )
    parameters |= await _wanted(services, asked, body)
    before = await _before(services, caller, continued) if continued and "tools" in parameters else []
    question = headers.to_question(
        "responses",
        body,
        _request(asked, body, parameters, before),
        session_id=continued.session_id if continued else None,
        parameters=parameters,
    )
    following = RunFollower(services, request, caller, await ask(services, caller, question), parameters)
    if body.stream:
        return _response_stream(following, -1)
    return await _response(following, following.run if body.background else await following.wait_for_end())


@router.get(
    f"{_V1}/responses/{{response_id}}",
    response_model=responses.Response,
    responses={200: {"model": responses.Response, "description": "The response.", **_STREAMED}, **documented_errors()},
)
@allow(EVERYONE, for_others=True, any_query=True)
async def get_response(
    *,
    services: Wired,
    caller: Caller,
    request: Request,
    response_id: ResponseId,
    stream: Annotated[bool, Query(description="Stream its events.")] = False,
    starting_after: Annotated[int, Query(ge=-1, le=_MOST, description="Those with a higher number only.")] = -1,
) -> Response:
    """Return a response, or stream its events again, from any number on, on any replica."""
    following = await _following(services, caller, request, response_id)
    if stream:
        return _response_stream(following, starting_after)
    return await _response(following, await following.current_run())


@router.get(f"{_V1}/responses/{{response_id}}/input_items", response_model=InputItems, responses=documented_errors())
@allow(EVERYONE, for_others=True, any_query=True)
async def list_input_items(services: Wired, caller: Caller, response_id: ResponseId) -> InputItems:
    """Return what the response was asked."""
    run = await _run_of(services, caller, response_id)
    parameters = await load_request_parameters(services, caller.tenant_id, run.run_id)
    items = list(items_of(asked_in(run, parameters), f"msg_{run.run_id}_input"))
    return InputItems(data=items, first_id=items[0]["id"], last_id=items[-1]["id"])


@router.post(
    f"{_V1}/responses/{{response_id}}/cancel", response_model=responses.Response, responses=documented_errors()
)
@allow(OPERATORS, for_others=True, any_query=True)
async def cancel_response(services: Wired, caller: Caller, request: Request, response_id: ResponseId) -> Response:
    """Cancel a response; one that has ended is returned as it is. The status follows when its agents have stopped."""
    following = await _following(services, caller, request, response_id)
    run_id = following.run.run_id
    if following.run.status in OPEN_RUN_STATUSES:
        await cancel_run_and_agents(services, caller, run_id)
        await wait_for_finished_run(services, caller.tenant_id, run_id, _CANCELLED_WITHIN_S)
    return await _response(following, await following.current_run())


async def _following(services: GatewayServices, caller: Caller, request: Request, response_id: str) -> RunFollower:
    run = await _run_of(services, caller, response_id)
    parameters = await load_request_parameters(services, caller.tenant_id, run.run_id)
    return RunFollower(services, request, caller, run, parameters)


async def _response(following: RunFollower, run: Run) -> Response:
    waits_for = await _waits_for(following, run)
    return JSONResponse(responses.response_from_run(run, following.parameters, waits_for), headers=_headers(run))


async def _waits_for(following: RunFollower, run: Run) -> responses.WaitsFor | None:
    if run.status != "interrupted":
        return None
    pool, tenant_id = following.services.pool, following.caller.tenant_id
    approvals = await list_pending_approvals(pool, tenant_id, run)
    return responses.WaitsFor(approvals, await open_questions(pool, tenant_id, run.run_id))


async def _wanted(services: GatewayServices, asked: RunTarget, body: ChatRequest | ResponsesRequest) -> dict[str, Any]:
    """What the run's parameters hold of the format that the client wants, and of the functions that it runs.

    Raises:
        Invalid: a schema is invalid, or the model does not take them.
    """
    format_ = await _format(services, asked, body.format)
    if takes_conversation(asked):
        return {**format_, **await functions_of(services.run_confined, body)}
    check_none_needed(body)
    return format_


def _request(
    asked: RunTarget, body: ChatRequest | ResponsesRequest, parameters: dict[str, Any], before: Sequence[Any] = ()
) -> RunRequest:
    """Return the run that the client asks for; `before`: what was said in a conversation that it continues."""
    if "tools" not in parameters:
        return asked.to_run_request(last_message_text(body.messages))
    return conversation_request(asked, body.messages, parameters, before)


async def _before(services: GatewayServices, caller: Caller, run: Run) -> list[Any]:
    parameters = await load_request_parameters(services, caller.tenant_id, run.run_id)
    return said_before(run, parameters)


async def _format(services: GatewayServices, asked: RunTarget, wanted: dict[str, Any] | None) -> dict[str, Any]:
    if wanted is None:
        return {}
    if asked == QUESTIONS:
        raise Invalid(f"{model_id(asked)} answers in prose: ask a workflow for JSON, or leave the format out")
    await check_format_schema(services.run_confined, wanted)
    return {"format": wanted}


def _response_stream(following: RunFollower, after: int) -> Response:
    following.services.streams.check_slot_free(following.caller.tenant_id)
    events = responses.stream_response_events(following, after)
    return EventSourceResponse(events, headers=_headers(following.run), sep="\n")


async def _continued(services: GatewayServices, caller: Caller, response_id: str) -> Run:
    try:
        return await _run_of(services, caller, response_id)
    except NotFound as error:
        raise PreviousResponseNotFound(str(error)) from error


async def _run_of(services: GatewayServices, caller: Caller, response_id: str) -> Run:
    try:
        return await get_run(services.pool, caller.tenant_id, responses.run_id_of(response_id))
    except NotFound as error:
        raise NotFound(f"no response {response_id}") from error


def _headers(run: Run) -> dict[str, str]:
    return {"X-Request-Id": run.run_id, "Flotilla-Run": run.run_id, "Flotilla-Session": run.session_id}
