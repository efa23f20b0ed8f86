"""Who says which version of an agent gets its tasks, and what is refused."""

import json

import httpx
import pytest

from tests.support.gateway import RunningGateway

ROUTE = "/v1/agents/write/route"


@pytest.fixture
async def admin(gateway: RunningGateway) -> httpx.AsyncClient:
    """An administrator of the operator's tenant, and two versions of an agent."""
    for version in ("1", "2"):
        await gateway.as_superuser(
            "INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, in_flight, "
            f"input_schema, output_schema) VALUES ('write', 'i{version}', '{version}', 's', 'g', 8, 3, '{{}}', '{{}}')"
        )
    return await gateway.client_of("ada", "admin", person=True)


async def test_a_version_gets_a_share_is_drained_and_the_route_is_cleared(
    admin: httpx.AsyncClient, gateway: RunningGateway
) -> None:
    empty = (await admin.get(ROUTE)).json()
    assert [(one["version"], one["percent"], one["instances"], one["in_flight"]) for one in empty["versions"]] == [
        ("1", None, 1, 3),
        ("2", None, 1, 3),
    ]
    assert (await admin.put(ROUTE, json={"version": "2", "percent": 10})).status_code == 200
    await admin.put(ROUTE, json={"version": "3", "percent": 90})  # to come
    drained = (await admin.put(ROUTE, json={"version": "1", "drained": True})).json()
    assert [(one["version"], one["percent"], one["drained"], one["instances"]) for one in drained["versions"]] == [
        ("1", None, True, 1),
        ("2", 10, False, 1),
        ("3", 90, False, 0),
    ]
    assert drained["versions"][0]["changed_by"] == "ada"
    assert (await admin.delete(ROUTE)).status_code == 204
    assert (await admin.get(ROUTE)).json() == empty
    assert (await admin.delete(ROUTE)).status_code == 404
    bodies = await gateway.rows(
        "SELECT body FROM flotilla.event_outbox WHERE session_id = 'flotilla:audit' ORDER BY seq"
    )
    changes = [json.loads(row["body"])["data"] for row in bodies]
    assert [one["change"] for one in changes if one["change"].startswith("agent_")] == [
        "agent_route_changed",
        "agent_route_changed",
        "agent_route_changed",
        "agent_route_cleared",
    ]


async def test_shares_are_of_all_sessions_at_most(admin: httpx.AsyncClient) -> None:
    await admin.put(ROUTE, json={"version": "1", "percent": 91})
    refused = await admin.put(ROUTE, json={"version": "2", "percent": 10})
    assert (refused.status_code, refused.json()["code"]) == (409, "too_much_routed")
    assert [one["percent"] for one in (await admin.get(ROUTE)).json()["versions"]] == [91, None]
    for body in ({"version": "2", "percent": 101}, {"version": "2@x"}, {"percent": 5}, {"version": "2", "percent": -1}):
        assert (await admin.put(ROUTE, json=body)).status_code == 422
    assert (await admin.put("/v1/agents/nobody/route", json={"version": "1"})).status_code == 404


async def test_only_administrators_of_the_operators_tenant_change_it(
    admin: httpx.AsyncClient, gateway: RunningGateway
) -> None:
    stranger = await gateway.client_of("eve", "admin", tenant="globex", person=True)
    operator = await gateway.client_of("olga", "operator", person=True)
    for client in (stranger, operator):
        assert (await client.put(ROUTE, json={"version": "2", "percent": 100})).status_code == 403
        assert (await client.delete(ROUTE)).status_code == 403
        assert (await client.get(ROUTE)).status_code == 200
    assert all(one["changed_by"] is None for one in (await admin.get(ROUTE)).json()["versions"])
