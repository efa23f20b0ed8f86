"""A connection to PostgreSQL with limits, and with settings that go with the statement that begins a transaction."""

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg
from asyncpg.transaction import Transaction

from flotilla.encryption import SessionKeyring

_CANCEL_S = 2.0


class LimitedConnection(asyncpg.Connection):
    """A connection that gives up soon when asking the server to cancel a statement is not answered either."""

    is_pooled = False
    """Whether a pooler is said to be in between."""
    keyring: SessionKeyring | None = None
    """The keys of sessions; None where the pool was opened without them."""
    _each: Mapping[str, str] = {}
    _begin_with = ""
    _may_hold_state = False

    def add_settings_to_transactions(self, settings: Mapping[str, str]) -> None:
        """Make these settings in every transaction."""
        self._each = settings
        self._begin_with = _set_locally(settings)

    def transaction_with(self, settings: Mapping[str, str], **options: Any) -> Transaction:
        """A transaction with these settings, made in the round trip that begins it. They are seen by everybody who may
        see what statements run (pg_stat_activity): no secrets."""
        self._begin_with = _set_locally({**self._each, **settings})
        return self.transaction(**options)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """See asyncpg.Connection; `Transaction` begins with this call."""
        if self._begin_with and query.startswith("BEGIN"):
            query, self._begin_with = f"{query} {self._begin_with}", _set_locally(self._each)
        return await super().execute(query, *args, timeout=timeout)

    def mark_dirty(self) -> None:
        """Note that statements may leave settings or locks behind in the session."""
        self._may_hold_state = True

    async def reset_session(self) -> None:
        """Reset the session, if statements may have left something behind in it."""
        if self._may_hold_state:
            await self.execute(self.get_reset_query())
            self._may_hold_state = False

    async def _cancel(self, waiter: Any, cancel_waiter: Any = None) -> None:
        # asyncpg's own limit is that of a statement, once more.
        limit = asyncio.timeout(_CANCEL_S)
        async with limit:
            await super()._cancel(waiter, cancel_waiter)  # type: ignore[misc]
        if limit.expired():
            self.terminate()


def _set_locally(settings: Mapping[str, str]) -> str:
    """The statement that makes `settings` for the rest of the transaction. Values are written in hexadecimal digits, so
    that no setting of the server decides where a quoted one ends. "" for none."""
    if not settings:
        return ""
    calls = [f"set_config({_literal(name)}, {_literal(value)}, true)" for name, value in settings.items()]
    return f"SELECT {', '.join(calls)};"


def _literal(text: str) -> str:
    return f"convert_from(decode('{text.encode(errors='surrogatepass').hex()}', 'hex'), 'UTF8')"
