"""Names and messages of the activity behind the workflow `supervise`."""

from dataclasses import dataclass, field

from flotilla.contracts.planning import OfferedTool

OFFER_TOOLS = "offer_tools"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferTools:
    """Asks what may be chosen; returns `Offer`."""

    agents: list[str] = field(default_factory=list)
    """Only these; empty: all that are registered."""
    actions: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What may be chosen, as it was when the run began."""

    tools: list[OfferedTool]
    planner: bool
    """Whether an agent is there that asks a model."""
