"""Settings of the research agent."""

from typing import Literal

from flotilla.agent import AgentSettings
from flotilla.config import KnowledgeSettings, LlmSettings


class Settings(AgentSettings, KnowledgeSettings, LlmSettings):
    """An agent's settings, how the knowledge base is searched, and the model that rewrites questions."""

    research_rewrite: Literal["model", "rules"] = "model"
    """Who puts follow-up questions into words of their own before the search: the language model, where an endpoint is
    configured, which is one more call for each question that continues a session; or rules alone."""
