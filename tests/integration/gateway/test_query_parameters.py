"""A query parameter that a route does not have is refused by name, on every route, before anything is done."""

import re

from gateway.application import guarded_routes
from gateway.auth.principal import ROLES
from tests.support.gateway import RunningGateway

FROM_A_PROVIDER = "/auth/oidc/callback"
OF_PROTOCOLS = ("/openai/", "/a2a/", "/.well-known/", "/mcp")


async def test_every_route_refuses_a_parameter_that_it_does_not_have(gateway: RunningGateway) -> None:
    client = await gateway.client_of("olga", *sorted(ROLES))
    for route in guarded_routes():
        path = re.sub(r"\{\w+\}", "x", route.path_format)
        for method in route.methods or ():
            answer = await client.request(method, path, params={"statsu": "failed"})
            # OpenID Connect ignores parameters that it does not know, and clients of protocols send what they like.
            if route.path == FROM_A_PROVIDER or route.path.startswith(OF_PROTOCOLS):
                assert "no such parameter" not in answer.text
                continue
            problem = answer.json()
            assert (answer.status_code, problem["code"]) == (422, "invalid"), (method, path, problem)
            (error,) = problem["errors"]
            assert error["pointer"] == "query statsu"
            assert "there is no such parameter; this route takes" in error["detail"]


async def test_refusal_names_the_parameters_that_the_route_has(gateway: RunningGateway) -> None:
    client = await gateway.client_of("olga", "viewer")
    problem = (await client.get("/v1/runs", params={"Status": "failed", "limit": 1})).json()
    takes = "this route takes: created_after, created_before, cursor, limit, "
    takes += "parent_run_id, schedule_id, session_id, status, user_id, workflow"
    assert problem["errors"] == [{"pointer": "query Status", "detail": f"there is no such parameter; {takes}"}]


async def test_parameter_given_twice_is_refused(gateway: RunningGateway) -> None:
    client = await gateway.client_of("olga", "viewer")
    problem = (await client.get("/v1/runs?status=failed&status=success")).json()
    assert problem["errors"] == [{"pointer": "query status", "detail": "it is given more than once"}]


async def test_strange_names_are_refused_and_not_repeated_at_length(gateway: RunningGateway) -> None:
    client = await gateway.client_of("olga", "viewer")
    for query in ("%00=1", "%ff%fe", "a" * 4000, "&".join(f"p{i}=1" for i in range(900)), "limit[]=1", "%ed%a0%80=1"):
        answer = await client.get(f"/v1/sessions?{query}")
        assert answer.status_code == 422, query
        assert len(answer.content) < 4000


async def test_callers_without_credentials_learn_nothing_about_parameters(gateway: RunningGateway) -> None:
    assert (await gateway.client().get("/v1/runs", params={"x": 1})).status_code == 401
