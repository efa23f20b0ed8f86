"""Settings of the research agent."""

from flotilla.agent import AgentSettings
from flotilla.config import KnowledgeSettings


class Settings(AgentSettings, KnowledgeSettings):
    """An agent's settings, and how the knowledge base is searched."""
