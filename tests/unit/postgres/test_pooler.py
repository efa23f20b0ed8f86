"""What a DSN says about a pooler, and what is refused."""

import asyncpg
import pytest

from flotilla.contracts.errors import ConfigurationError
from flotilla.postgres.connecting import PostgresConnector, libpq_dsn
from flotilla.postgres.pooler import PooledConnection, PoolerOptions, pooler_hint, split_pooler_options

DSN = "postgresql://u:p@h:6432/d"


def test_a_dsn_without_a_pooler_is_left_as_it_is() -> None:
    assert split_pooler_options(f"{DSN}?sslmode=require") == (f"{DSN}?sslmode=require", None)


def test_the_parameters_of_a_pooler_are_taken_out_of_the_dsn() -> None:
    given = f"{DSN}?sslmode=require&pooler=transaction&statement_cache_size=50"
    assert split_pooler_options(given) == (f"{DSN}?sslmode=require", PoolerOptions(50))
    assert split_pooler_options(f"{DSN}?pooler=transaction") == (DSN, PoolerOptions(0))


def test_only_the_name_of_the_application_goes_with_the_start_of_a_connection() -> None:
    options = PoolerOptions(7).connect_options({"application_name": "relay", "search_path": "audit"})
    assert options == {
        "server_settings": {"application_name": "relay"},
        "statement_cache_size": 7,
        "connection_class": PooledConnection,
    }


@pytest.mark.parametrize(
    "query",
    ["pooler=session", "pooler=", "statement_cache_size=5", "pooler=transaction&statement_cache_size=many"]
    + [f"pooler=transaction&statement_cache_size={size}" for size in ("-1", "1.5", "²")],
)
def test_another_mode_or_size_is_refused(query: str) -> None:
    with pytest.raises(ConfigurationError, match="FLOTILLA_POSTGRES_DSN has"):
        PostgresConnector(f"{DSN}?{query}")


def test_an_install_is_not_made_through_a_pooler() -> None:
    with pytest.raises(ConfigurationError, match="give the install the address of PostgreSQL itself"):
        libpq_dsn(f"{DSN}?pooler=transaction")


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (asyncpg.ProtocolViolationError("unsupported startup parameter: jit"), "add pooler=transaction"),
        (asyncpg.ProtocolViolationError("transaction blocks not allowed in statement pooling mode"), "to transaction"),
        (asyncpg.InvalidSQLStatementNameError('prepared statement "a" does not exist'), "add pooler=transaction"),
        (asyncpg.DuplicatePreparedStatementError('prepared statement "a" already exists'), "statement_cache_size"),
        (asyncpg.ProtocolViolationError("something else"), None),
    ],
)
def test_what_to_change_is_in_the_message(error: Exception, problem: str | None) -> None:
    message = pooler_hint(error)
    assert message is None if problem is None else problem in str(message)
