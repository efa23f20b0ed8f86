"""Runs the agent."""

from flotilla.agent import AgentSettings, serve_agent
from flotilla.config import LlmSettings
from refunds_langgraph.agent import agent


class Settings(AgentSettings, LlmSettings):
    """PostgreSQL, Redis, logs, metrics, and the model."""


def main() -> None:
    """Run until SIGTERM."""
    raise SystemExit(serve_agent(agent, settings_type=Settings))


if __name__ == "__main__":
    main()
