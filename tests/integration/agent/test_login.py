"""An agent is ready only under the role of PostgreSQL that is its own."""

import pytest

from flotilla.agent.login import check_database_role
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.names import agent_role
from flotilla.postgres import open_pool
from tests.support.postgres import Database


async def test_an_agent_under_the_role_of_another_names_the_one_that_it_needs(database: Database) -> None:
    async with open_pool(database.dsn(agent_role("research")), application="adder") as pool:
        with pytest.raises(RetryLater, match=r"user flotilla_agent_research is not the role of agent adder: .*_adder "):
            await check_database_role(pool, "adder")
        await check_database_role(pool, "research")


async def test_the_role_that_agents_of_former_versions_share_is_each_of_them(database: Database) -> None:
    async with open_pool(database.dsn("flotilla_agent"), application="adder") as pool:
        await check_database_role(pool, "adder")


async def test_a_server_that_is_away_is_asked_again() -> None:
    async with open_pool("postgresql://flotilla_agent@127.0.0.1:1/x", application="adder") as pool:
        with pytest.raises(RetryLater, match="does not answer"):
            await check_database_role(pool, "adder")
