"""Where each service's chart is: the agents share one."""

from collections.abc import Mapping

SHARED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "research-agent": ("agent", ("agent.name=research",)),
    "writer-agent": ("agent", ("agent.name=write", "agent.service=writer-agent", "agent.llm=true")),
    "tool-gateway": ("agent", ("agent.name=mcp", "agent.service=tool-gateway")),
}
"""Chart and values of those that have none of their own."""


def chart_of(service: str) -> tuple[str, tuple[str, ...]]:
    """Return the chart's folder, and the values that make it this service's."""
    return SHARED.get(service, (service, ()))
