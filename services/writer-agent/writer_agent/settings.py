"""Settings of the writer agent."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from flotilla.agent import AgentSettings
from flotilla.config import KnowledgeSettings, LlmSettings
from flotilla.knowledge import SEARCH_TOOL


class Settings(AgentSettings, KnowledgeSettings, LlmSettings):
    """An agent's settings, the model's, and the budgets of one answer."""

    writer_tools: tuple[str, ...] = (SEARCH_TOOL,)
    """What the model may call, as JSON: `["search_knowledge_base"]`; `[]` for an endpoint without tools."""
    writer_max_tool_steps: int = Field(default=3, ge=0)
    """How often the model may ask for tools before it must answer."""
    writer_max_tokens: int = Field(default=50_000, ge=1)
    """Input and output tokens that one answer may use, all calls together."""
    writer_history_turns: int = Field(default=6, ge=0)
    """Earlier questions and answers of the session that go into the prompt."""
    writer_support: Literal["overlap", "model"] = "overlap"
    """How sentences are checked against what they cite: by words and meaning, or by the language model as judge, which
    is a second call for each answer."""
    writer_abstain: bool = True
    """Decline to answer what the documents are not likely to answer; needs a calibration for the model."""
    calibration_file: Path | None = None
    """A calibration of `flotilla eval fit`; without it answers of the built-in model have the one that is shipped."""
