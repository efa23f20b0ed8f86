"""What model calls cost."""

from pydantic import Field

from gateway.schemas.common import Answer


class Spent(Answer):
    """What one day, model, agent, person, service or run cost."""

    name: str | None = Field(
        description="The day, model, agent, person, service or run; null for calls that belong to none."
    )
    calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    amount: str = Field(description="In the currency, as an exact decimal number.", examples=["0.1375"])
    currency: str = Field(examples=["EUR"])


class Spend(Answer):
    """The dearest first; days newest first."""

    spend: list[Spent]
