"""The API is what its OpenAPI document says: no 5xx, no undeclared answer, no ignored authentication."""

from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import HealthCheck, assume, given, settings

from flotilla.runtime import Health
from gateway.application import create_application, guarded_routes
from tests.contract.gateway.conftest import Target
from tests.support.properties import examples

if TYPE_CHECKING:
    from schemathesis import Case

EXAMPLES = examples(25)
ALL = [(method, route.path_format) for route in guarded_routes() for method in sorted(route.methods or ())]
LIVE = {("GET", "/v1/runs/{run_id}/events")} | {
    ("POST", door)
    for door in (
        "/openai/v1/chat/completions",
        "/openai/v1/responses",
        "/a2a/{kind}/{name}/message:send",
        "/a2a/{kind}/{name}/message:stream",
    )
}
"""They end when their run does, and nobody works on it here; what they send has tests of its own."""
OPERATIONS = [operation for operation in ALL if operation not in LIVE]
PUBLIC = {route.path_format for route in guarded_routes() if not route.access.roles}
CLOSED = [(method, path) for method, path in ALL if path not in PUBLIC]


@pytest.fixture(scope="module")
def api(target: Target) -> Any:
    import schemathesis  # takes a second, in every process that collects these tests

    return schemathesis.openapi.from_url(f"{target.url}/openapi.json")


TAKES_NOTHING = {
    "/auth/config",
    "/auth/logout",
    "/.well-known/agent-card.json",
    "/.well-known/jwks.json",
    "/a2a/workflows/rag/.well-known/agent-card.json",
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-protected-resource/mcp",
}
"""No parameter, no body, no credentials: nothing about a request can be unfit."""
MODES = [
    pytest.param(method, path, mode, id=f"{method}-{path}-{name}")
    for method, path in OPERATIONS
    for mode, name in (("positive", "fitting"), ("negative", "unfit"))
    if mode == "positive" or path not in TAKES_NOTHING
]


LONGEST_QUERY = 60_000
"""Bytes. The HTTP server itself refuses a request whose head has over 64 KiB, before the API sees it."""


def checks() -> list[Any]:
    """What every answer has to be."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    return [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]


@pytest.mark.parametrize(("method", "path", "mode"), MODES)
def test_no_request_makes_the_api_break_its_own_description(
    api: Any, target: Target, method: str, path: str, mode: str
) -> None:
    from schemathesis import GenerationMode

    operation = api[path][method]
    headers = {"Authorization": f"Bearer {target.key}"}

    @given(operation.as_strategy(generation_mode=GenerationMode(mode)))
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def ask(case: "Case[Any]") -> None:
        assume(len(urlencode(case.query or {}, doseq=True)) <= LONGEST_QUERY)
        if isinstance(case.body, dict):
            case.body.pop("wait_s", None)  # nobody works on these runs
        case.call_and_validate(headers=headers, checks=checks(), timeout=30)

    ask()


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_no_operation_ignores_credentials(api: Any, method: str, path: str) -> None:
    @given(api[path][method].as_strategy())
    @settings(max_examples=3, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def ask(case: "Case[Any]") -> None:
        for headers in ({}, {"Authorization": "Bearer flo_unknown"}):
            answer = case.call(headers=headers, timeout=30)
            assert answer.status_code == HTTPStatus.UNAUTHORIZED, answer.text

    ask()


def test_every_operation_says_who_may_call_it_and_how_it_refuses(target: Target) -> None:
    document = httpx.get(f"{target.url}/openapi.json", trust_env=False).json()
    assert document["openapi"].startswith("3.1")
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for route in guarded_routes():
        for method in route.methods or ():
            operation = document["paths"][route.path_format][method.lower()]
            assert operation.get("security", []) == ([{"bearer": []}, {"console": []}] if route.access.roles else [])
            assert operation.get("x-roles", []) == sorted(route.access.roles)
            for status in ("401", "403", "422", "429", "503"):
                content = operation["responses"][status]["content"]
                of_a_protocol = route.path.startswith(("/openai/", "/a2a/"))
                expected = "application/json" if of_a_protocol else "application/problem+json"
                assert set(content) == {expected}, (route.path, status)
            assert operation["description"]


def test_health_and_documents_need_no_credentials(target: Target) -> None:
    for path in ("/livez", "/readyz", "/openapi.json", "/asyncapi.json"):
        answer = httpx.get(target.url + path, trust_env=False, timeout=30)
        assert answer.status_code == 200, path
    assert httpx.get(f"{target.url}/asyncapi.json", trust_env=False).json()["asyncapi"].startswith("3.")
    assert httpx.get(f"{target.url}/metrics", trust_env=False).status_code == 404


def test_an_application_can_be_made_without_any_connection() -> None:
    assert create_application(None, None, Health()).openapi()["paths"]  # type: ignore[arg-type]
