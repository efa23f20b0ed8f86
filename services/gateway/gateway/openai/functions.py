"""Functions that the caller runs: what a client offers, as a conversation holds it, and the replies that call them.

They are for models that take a conversation: workflows whose input has `messages`, `tools` and `tool_choice`
(`flotilla.contracts.conversations`), such as `flotilla/chat`. Other models take no functions.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from flotilla.contracts.conversations import ProposedCall, Reply
from flotilla.contracts.envelope import to_json
from flotilla.contracts.typed import Codec
from flotilla.runtime.confined import FunctionRunner
from gateway.openai.formats import check_schemas
from gateway.openai.messages import FunctionName
from gateway.problems import wrong_parameter
from gateway.runs.askable import RunTarget
from gateway.schemas.common import STORABLE, JsonBody
from gateway.schemas.runs import Run

Json: TypeAlias = dict[str, Any]
MAX_FUNCTIONS = 128
MAX_FUNCTIONS_BYTES = 100_000
"""Of all functions of a request as JSON."""
WHICH_MODELS = "only workflows that take a conversation call functions of the caller, such as flotilla/chat"
_INPUT = frozenset({"messages", "tools", "tool_choice"})
_REPLY = Codec(Reply, "the output")
_MODES = ("auto", "none", "required")


class Function(BaseModel):
    """A function that the caller runs."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=4096), STORABLE] | None = None
    parameters: JsonBody | None = None
    strict: bool | None = None


class _Nested(BaseModel):
    type: Literal["function"]
    function: Function


class _Flat(Function):
    type: Literal["function"]


class _Named(BaseModel):
    name: FunctionName


class _NestedChoice(BaseModel):
    type: Literal["function"]
    function: _Named


class _FlatChoice(_Named):
    type: Literal["function"]


_Choice: TypeAdapter[_NestedChoice | _FlatChoice] = TypeAdapter(_NestedChoice | _FlatChoice)


class Tools(BaseModel):
    """What a client says of functions; as sent, until it is known whether the model takes any."""

    model_config = ConfigDict(extra="ignore", strict=True)

    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None


class _Functions(BaseModel):
    tools: Annotated[list[_Nested | _Flat], Field(max_length=MAX_FUNCTIONS)]


def takes_conversation(asked: RunTarget) -> bool:
    """Whether a model takes a conversation, with functions that the caller runs."""
    return asked.kind == "workflows" and set(asked.input_schema.get("properties", ())) >= _INPUT


def check_none_needed(given: Tools) -> None:
    """Refuse a choice that a model without functions of the caller can't make. Functions on offer are ignored, since no
    model has to call them.

    Raises:
        RequestValidationError: a function has to be called.
    """
    if given.tool_choice not in (None, "none", "auto"):
        message = f"parameter 'tool_choice' is not supported by this model: {WHICH_MODELS}"
        raise wrong_parameter("tool_choice", message)


async def functions_of(run: FunctionRunner, given: Tools) -> Json:
    """Return `tools`, `tool_choice` and `parallel_tool_calls` as a conversation holds them.

    Raises:
        RequestValidationError: there are too many, one is no function, or the choice is none of them.
        Invalid: one has an invalid schema.
    """
    functions = _functions(given.tools or [])
    names = [one.name for one in functions]
    if len(set(names)) < len(names):
        raise wrong_parameter("tools", "two functions have the same name")
    tools = [{"type": "function", "function": one.model_dump(exclude_none=True)} for one in functions]
    size = len(to_json(tools))
    if size > MAX_FUNCTIONS_BYTES:
        raise wrong_parameter("tools", f"as JSON they have {size} bytes, {MAX_FUNCTIONS_BYTES} are allowed")
    schemas = {f"tool {one.name}": one.parameters for one in functions if one.parameters}
    if schemas:
        await check_schemas(run, schemas)
    choice = _choice(given.tool_choice, names)
    return {"tools": tools, "tool_choice": choice, "parallel_tool_calls": given.parallel_tool_calls is not False}


def _functions(tools: list[Any]) -> list[Function]:
    try:
        found = _Functions.model_validate({"tools": tools}).tools
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = [part for part in first["loc"][1:] if not str(part).startswith("_")]
        message = f"{first['msg']}; this model takes tools of type function only"
        raise wrong_parameter("tools", message, *place) from error
    return [one.function if isinstance(one, _Nested) else Function(**one.model_dump()) for one in found]


def _choice(choice: Any, names: list[str]) -> Any:
    if choice is None or (isinstance(choice, str) and choice in _MODES):
        if choice == "required" and not names:
            raise wrong_parameter("tool_choice", "there is no function to call")
        return choice or "auto"
    try:
        named = _Choice.validate_python(choice)
    except ValidationError as error:
        raise wrong_parameter("tool_choice", "none, auto, required or one function") from error
    name = named.function.name if isinstance(named, _NestedChoice) else named.name
    if name not in names:
        raise wrong_parameter("tool_choice", f"{name} is not in tools")
    return {"type": "function", "function": {"name": name}}


def reply_of(run: Run, parameters: Mapping[str, Any]) -> Reply | None:
    """Return what a run of a model that takes a conversation replied; None for another model, or before it did.

    Raises:
        ValueError: its workflow returned something else.
    """
    if "tools" not in parameters or run.output is None:
        return None
    return _REPLY.decode(run.output)


def calls_of(run: Run, parameters: Mapping[str, Any]) -> list[ProposedCall]:
    """Return the functions that the caller is to run before the model says more."""
    reply = reply_of(run, parameters) if run.result is not None else None
    return reply.calls if reply else []
