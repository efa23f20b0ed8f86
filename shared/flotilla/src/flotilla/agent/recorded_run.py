"""A replay's view of the recorded run: what tools returned then, and what is other now."""

import json
from collections import defaultdict, deque
from collections.abc import Sequence

from flotilla.agent.ports import IdentifiedToolCall
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.errors import Forbidden, Refused
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.tasks import RecordedCall, Replay, Turn
from flotilla.contracts.tools import ToolOptions
from flotilla.contracts.values import to_storable

REPLAY_ENDED = "replay_ended"
_MAX_SHOWN_CALLS = 50
_MAX_SHOWN_CHARACTERS = 1000


class NotRecorded(Forbidden):
    """The recorded run made no such call, and a replay makes none."""


class FailedThen(Refused):
    """The call failed in the recorded run, so it fails again."""


class RecordedRun:
    """What one agent may use of a recorded run."""

    def __init__(self, replay: Replay, agent: str) -> None:
        self._replay = replay
        self._prompt = replay.prompts.get(agent)
        self._asked_for_prompt = False
        self._left: defaultdict[str, deque[RecordedCall]] = defaultdict(deque)
        self._used = self._live = self._effects = 0
        self._blocked: list[JsonObject] = []
        self._changed: list[JsonObject] = []
        for call in replay.calls:
            if replay.agents.get(call.agent, call.agent) == agent:
                self._left[_call_key(call.tool, call.args)].append(call)

    def may_call_live_tool(self, call: IdentifiedToolCall, options: ToolOptions) -> bool:
        """Whether the tool is to be called, since it only searches and the index is the live one. The call stands for
        the recorded one that it would have been answered from."""
        if not options.searches or self._replay.index != "live":
            return False
        self._live += 1
        recorded = self._left[_call_key(call.tool, call.args)] or self._left_of(call.tool)
        if recorded:
            recorded.popleft()
        return True

    def recorded_result(self, call: IdentifiedToolCall, options: ToolOptions) -> JsonValue:
        """Return what the n-th equal call returned to the n-th one; a search in other words finds what one that is
        left found then.

        Raises:
            NotRecorded: there was none.
            FailedThen: it failed.
        """
        recorded = self._left[_call_key(call.tool, call.args)]
        found = (
            recorded.popleft() if recorded else self._take_unused_recorded_search(call) if options.searches else None
        )
        if found is None:
            self._blocked.append(_shorten_call_for_log(call.tool, call.args))
            raise NotRecorded(f"tool {call.tool}: the recorded run has no such call, and a replay makes no other")
        self._used += 1
        if found.error is not None:
            raise FailedThen(found.error)
        return found.result

    def _take_unused_recorded_search(self, call: IdentifiedToolCall) -> RecordedCall | None:
        left = self._left_of(call.tool)
        if left is None:
            return None
        found = left.popleft()
        self._changed.append(
            {
                **_shorten_call_for_log(call.tool, call.args),
                "recorded": _shorten_call_for_log(call.tool, found.args)["args"],
            }
        )
        return found

    def _left_of(self, tool: str) -> deque[RecordedCall] | None:
        """The first equal recorded calls of a tool that are left."""
        return next((calls for calls in self._left.values() if calls and calls[0].tool == tool), None)

    def count_blocked_effect(self) -> None:
        """Count an effect that does not happen."""
        self._effects += 1

    def candidate_prompt_or(self, own: str) -> str:
        """Return the candidate's prompt, if there is one for this agent, else `own`."""
        self._asked_for_prompt = True
        return own if self._prompt is None else self._prompt

    def check_prompt_used(self) -> None:
        """Raise Refused if the agent never asked for the prompt that it was to use."""
        if self._prompt is not None and not self._asked_for_prompt:
            raise Refused("the replay has a prompt for this agent, which does not ask for one: use ctx.prompt in it")

    def summarize_differences(self) -> JsonObject:
        """Return what was answered from the recording, what was searched again, and what differs from it."""
        unused = [_shorten_call_for_log(call.tool, call.args) for calls in self._left.values() for call in calls]
        return {
            "recorded_calls": self._used,
            "live_searches": self._live,
            "changed_searches": list(self._changed[:_MAX_SHOWN_CALLS]),
            "blocked_calls": list(self._blocked[:_MAX_SHOWN_CALLS]),
            "unused_calls": list(unused[:_MAX_SHOWN_CALLS]),
            "blocked_effects": self._effects,
        }


class SessionBeforeRecordedRun:
    """The session as it was before the recorded run."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = list(turns)

    async def turns(self, limit: int = 10) -> list[Turn]:
        """The last `limit` questions and answers, oldest first."""
        return self._turns[-limit:]


def _call_key(tool: str, args: JsonObject) -> str:
    return json.dumps([tool, to_storable(to_builtins(args)).value], sort_keys=True)


def _shorten_call_for_log(tool: str, args: JsonObject) -> JsonObject:
    """A call for the log: one that was made up by a model may be long."""
    text = json.dumps(to_storable(to_builtins(args)).value, ensure_ascii=False)
    return {"tool": tool, "args": text[:_MAX_SHOWN_CHARACTERS]}
