"""The tool calls of one run that are under way: a call that waits for people ends only after those beside it.

Frameworks cancel the calls beside one that raised. A tool that was cancelled in the middle may have had its effect, and
that is a question for people, or a second call; so it is let end.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from flotilla.agent.gates import ApprovalPending

_PARALLEL_CALLS_BEGIN_WITHIN_S = 0.02
"""Calls that a framework makes together have begun by then."""
_enclosing_calls: ContextVar[tuple[object, ...]] = ContextVar("calls_above", default=())
"""The calls in which this one is made."""


class RunningToolCalls:
    """Knows which calls run."""

    def __init__(self) -> None:
        self._running: set[object] = set()
        self._one_ended = asyncio.Event()

    @asynccontextmanager
    async def track_call(self) -> AsyncIterator[None]:
        """One call, as long as the block."""
        call, above = object(), _enclosing_calls.get()
        outer = _enclosing_calls.set((*above, call))
        self._running.add(call)
        try:
            yield
        except ApprovalPending:
            self._remove_ended_calls(call, *above)  # those above pause with it
            await self._wait_until_others_ended()
            raise
        finally:
            self._remove_ended_calls(call)
            _enclosing_calls.reset(outer)

    def _remove_ended_calls(self, *calls: object) -> None:
        self._running.difference_update(calls)
        self._one_ended.set()

    async def _wait_until_others_ended(self) -> None:
        await asyncio.sleep(_PARALLEL_CALLS_BEGIN_WITHIN_S)
        while self._running:
            self._one_ended.clear()
            await self._one_ended.wait()
