"""What a model may choose among."""

from flotilla.postgres import Pool
from flotilla.workflows.calls.supervision import OfferTools
from workflow_worker.activities.supervision import SupervisionActivities

REGISTER = """
INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, input_schema,
    output_schema, timeout_s) VALUES ($1, 'i', '1', 's', 'g', 1, '{}', '{}', 60)
"""


async def test_the_tools_of_mcp_servers_are_on_offer_only_to_who_names_them(pool: Pool) -> None:
    for name in ("search", "mcp", "plan"):
        await pool.execute(REGISTER, name)
    supervision = SupervisionActivities(pool)
    offer = await supervision.offer_tools(OfferTools())
    assert ([tool.name for tool in offer.tools], offer.planner) == (["search"], True)
    named = await supervision.offer_tools(OfferTools(agents=["mcp"]))
    assert [tool.name for tool in named.tools] == ["mcp"]
