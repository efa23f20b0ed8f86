"""A pooler between the services and PostgreSQL, such as PgBouncer in transaction mode: `?pooler=transaction` in a DSN.

It lends a connection of PostgreSQL for one transaction at a time, so nothing holds there that belongs to a session:
settings go with each transaction instead of the start of a connection, and statements are not prepared by name, unless
the pooler keeps track of them (`&statement_cache_size=100`; PgBouncer 1.21 with `max_prepared_statements`).
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from flotilla.contracts.errors import ConfigurationError
from flotilla.postgres.limited import LimitedConnection

_POOLER, _CACHE = "pooler", "statement_cache_size"
SAY_POOLER = "add pooler=transaction to the query of FLOTILLA_POSTGRES_DSN"
NOT_POOLED = (
    "FLOTILLA_POSTGRES_DSN of the install leads to a pooler (PgBouncer), and migrations need a session of their own: "
    "give the install the address of PostgreSQL itself"
)
_AT_THE_START = "application_name"
"""The one setting here that poolers take at the start of a connection."""
_BETWEEN_STATEMENTS = "idle_in_transaction_session_timeout"
_FORGOTTEN = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)


@dataclass(frozen=True, slots=True)
class PoolerOptions:
    """How a DSN's pooler is to be treated."""

    statement_cache_size: int = 0

    def connect_options(self, settings: Mapping[str, str]) -> dict[str, Any]:
        """Return what `asyncpg.connect` takes for a connection with these settings."""
        at_start = {name: value for name, value in settings.items() if name == _AT_THE_START}
        return {
            "server_settings": at_start,
            "statement_cache_size": self.statement_cache_size,
            "connection_class": PooledConnection,
        }


class PooledConnection(LimitedConnection):
    """A connection whose settings go with each transaction; a statement outside of one gets its own."""

    is_pooled = True
    _every_statement = False

    def add_settings_to_transactions(self, settings: Mapping[str, str]) -> None:
        """Make these settings in each transaction from now on."""
        kept = {name: value for name, value in settings.items() if name != _AT_THE_START}
        self.add_settings_to_transactions(kept)
        self._every_statement = bool(kept.keys() - {_BETWEEN_STATEMENTS})

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """See asyncpg.Connection."""
        if query.startswith("BEGIN"):
            return await super().execute(query, *args, timeout=timeout)
        async with self._with_settings():
            return await super().execute(query, *args, timeout=timeout)

    async def reset_session(self) -> None:
        """Do nothing: after a transaction, the session is another client's."""

    @asynccontextmanager
    async def _with_settings(self) -> AsyncIterator[None]:
        if not self._every_statement or self.is_in_transaction():
            yield
            return
        async with self.transaction():
            yield

    async def _execute(self, *args: Any, **options: Any) -> Any:
        # All of asyncpg's fetch methods come here.
        async with self._with_settings():
            return await super()._execute(*args, **options)  # type: ignore[misc]

    async def _executemany(self, *args: Any) -> Any:
        async with self._with_settings():
            return await super()._executemany(*args)  # type: ignore[misc]


def split_pooler_options(dsn: str) -> tuple[str, PoolerOptions | None]:
    """Return the DSN without the parameters of a pooler, and how to treat it; None where the DSN names none.

    Raises:
        ConfigurationError: another mode than `transaction`, or a cache size that is none.
    """
    parts = urlsplit(dsn)
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    given = {name: value for name, value in parameters if name in (_POOLER, _CACHE)}
    if not given:
        return dsn, None
    query = urlencode([each for each in parameters if each[0] not in given], safe="/")
    return urlunsplit(parts._replace(query=query)), _pooling(given)


def _pooling(given: Mapping[str, str]) -> PoolerOptions:
    if given.get(_POOLER) != "transaction":
        raise ConfigurationError(
            f"FLOTILLA_POSTGRES_DSN has {_POOLER}={given.get(_POOLER, '')}: the one that is supported is "
            f"{_POOLER}=transaction, which fits poolers in session mode, too"
        )
    size = given.get(_CACHE, "0")
    if not (size.isascii() and size.isdigit()):
        raise ConfigurationError(f"FLOTILLA_POSTGRES_DSN has {_CACHE}={size}: give a number, 0 for none")
    return PoolerOptions(int(size))


def pooler_hint(error: Exception) -> str | None:
    """Return what to change where a pooler, or the lack of its parameter in the DSN, is behind `error`."""
    text = str(error)
    if "unsupported startup parameter" in text:
        return f"a pooler (PgBouncer) refuses the settings of a connection ({text}): {SAY_POOLER}"
    if "statement pooling mode" in text:
        return f"PgBouncer is in statement mode ({text}): set its pool_mode to transaction"
    if isinstance(error, _FORGOTTEN):
        return (
            f"a pooler (PgBouncer) does not keep prepared statements ({text}): {SAY_POOLER}, without "
            f"{_CACHE} where the pooler's max_prepared_statements is 0"
        )
    return None
