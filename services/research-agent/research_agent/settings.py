"""Settings of the research agent."""

from pydantic import Field

from flotilla.agent import AgentSettings


class Settings(AgentSettings):
    """An agent's settings, and how the knowledge base is searched."""

    research_text_config: str = "english"
    """The PostgreSQL text search configuration; documents must have been added with the same."""
    research_postings_per_term: int = Field(default=1000, ge=50)
    """How far a search reads into the postings of each term; bounds its time."""
