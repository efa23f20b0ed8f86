"""An agent refuses to run where another one is expected: nothing would scale the streams that it reads."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from flotilla.agent import Agent, AgentSettings, run_agent
from flotilla.contracts.errors import ConfigurationError
from flotilla.runtime import Runtime

agent = Agent("research")


async def test_another_name_than_the_codes_is_a_configuration_error() -> None:
    settings = AgentSettings(
        postgres_dsn=SecretStr("postgresql://nowhere/x"),
        redis_url=SecretStr("redis://nowhere:1"),
        ticket_public_key_file=Path("none"),
        agent_name="write",
    )
    with pytest.raises(ConfigurationError, match="this is agent research, and FLOTILLA_AGENT_NAME says write"):
        await run_agent(agent, settings, Runtime("research-agent"))
