"""What tools and models did."""

from datetime import date

from gateway.schemas.common import Answer


class ToolUsage(Answer):
    """How a tool did."""

    tool: str
    calls: int
    errors: int
    p50_ms: float
    p95_ms: float


class ToolAnalytics(Answer):
    """Every tool that was called, most called first."""

    tools: list[ToolUsage]


class TokenUsageOfDay(Answer):
    """Tokens that a model counted on a day (UTC)."""

    model: str
    day: date
    calls: int
    input_tokens: int
    output_tokens: int


class TokenAnalytics(Answer):
    """By day, newest first, and model."""

    tokens: list[TokenUsageOfDay]
