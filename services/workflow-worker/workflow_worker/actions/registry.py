"""The registry of action handlers. A handler must bear to run twice: its idempotency key says what was done already."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx

from flotilla.approvals.actions import EchoArgs, HttpRequestArgs, PublishAnswerArgs, check_args
from flotilla.contracts.envelope import from_builtins
from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.postgres import Pool
from workflow_worker.activities.signatures import ActionKey


@dataclass(frozen=True, slots=True)
class ActionContext:
    """What a handler may use."""

    key: ActionKey
    requested_by: str
    idempotency_key: str
    pool: Pool
    http: httpx.AsyncClient
    allowed_hosts: tuple[str, ...]


Handler: TypeAlias = Callable[[ActionContext, Any], Awaitable[JsonValue]]


@dataclass(frozen=True, slots=True)
class ActionHandler:
    """A handler with the type of its arguments."""

    args: type[Any]
    run: Handler


class Registry:
    """Actions by name."""

    def __init__(self, handlers: Mapping[str, ActionHandler]) -> None:
        self._handlers = dict(handlers)
        self._args = {name: handler.args for name, handler in handlers.items()}

    def check(self, action: str, args: JsonObject) -> None:
        """Whether the action exists and takes these arguments.

        Raises:
            Invalid: it does not.
        """
        check_args(action, args, self._args)

    async def run(self, context: ActionContext, action: str, args: JsonObject) -> JsonValue:
        """Runs the action's handler.

        Raises:
            Invalid: no such action, or arguments that it does not take.
        """
        self.check(action, args)
        handler = self._handlers.get(action)
        if handler is None:
            raise Invalid(f"no action {action!r}")
        return await handler.run(context, from_builtins(args, handler.args))


def builtin_registry() -> Registry:
    """The actions that every worker has."""
    from workflow_worker.actions.builtin import echo, http_request, publish_answer

    return Registry(
        {
            "echo": ActionHandler(EchoArgs, echo),
            "http_request": ActionHandler(HttpRequestArgs, http_request),
            "publish_answer": ActionHandler(PublishAnswerArgs, publish_answer),
        }
    )
