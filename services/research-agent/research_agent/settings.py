"""Settings of the research agent."""

from pydantic import Field

from flotilla.agent import AgentSettings


class Settings(AgentSettings):
    """An agent's settings, and how the knowledge base is searched."""

    research_text_config: str = "english"
    """The PostgreSQL text search configuration; documents must have been added with the same."""
    research_postings: int = Field(default=500, ge=100)
    """Postings that one search reads; bounds its time."""
