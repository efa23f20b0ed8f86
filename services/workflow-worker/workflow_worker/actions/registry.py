"""The registry of action handlers. A handler must bear to run twice: its idempotency key says what was done already."""

from collections.abc import Mapping
from dataclasses import dataclass

from flotilla.actions import ActionContext, Handler
from flotilla.actions.arguments import ACTION_ARGUMENTS_ENTRY_POINTS as ARGUMENTS_GROUP
from flotilla.actions.arguments import check_action_args, load_action_argument_types
from flotilla.actions.plugins import load_entry_point_objects
from flotilla.contracts.envelope import from_builtins
from flotilla.contracts.errors import ConfigurationError, Invalid
from flotilla.contracts.json_types import JsonObject, JsonValue
from workflow_worker.actions.builtin import echo, http_request, publish_answer

ACTION_HANDLERS_ENTRY_POINTS = "flotilla.action_handlers"
BUILTIN_ACTION_HANDLERS: Mapping[str, Handler] = {
    "echo": echo,
    "http_request": http_request,
    "publish_answer": publish_answer,
}


@dataclass(frozen=True, slots=True)
class ActionHandlerRegistry:
    """Handlers by action."""

    handlers: Mapping[str, Handler]

    async def run_action_handler(self, context: ActionContext, action: str, args: JsonObject) -> JsonValue:
        """Run the action's handler.

        Raises:
            Invalid: no such action, or arguments that it does not take.
        """
        check_action_args(action, args)
        handler = self.handlers.get(action)
        if handler is None:
            raise Invalid(f"no handler for action {action!r}")
        return await handler(context, from_builtins(args, load_action_argument_types()[action]))


def load_action_handlers() -> ActionHandlerRegistry:
    """The built-in actions, and those of installed packages: entry points in group `flotilla.action_handlers`.

    Raises:
        ConfigurationError: a handler can't be loaded, takes another's name or has no arguments; an action no handler.
    """
    handlers = {
        **BUILTIN_ACTION_HANDLERS,
        **load_entry_point_objects(ACTION_HANDLERS_ENTRY_POINTS, taken=BUILTIN_ACTION_HANDLERS),
    }
    if halves := handlers.keys() ^ load_action_argument_types().keys():
        raise ConfigurationError(
            f"action {', '.join(sorted(halves))} needs two entry points: its arguments in {ARGUMENTS_GROUP}, "
            f"its handler in {ACTION_HANDLERS_ENTRY_POINTS}"
        )
    return ActionHandlerRegistry(handlers)
