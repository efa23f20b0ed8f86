"""The API reference at /docs: complete, and sufficient unto itself."""

import re
from html.parser import HTMLParser

import httpx
import pytest

from flotilla.runtime import Health
from gateway.application import create_application, guarded_routes
from gateway.reference import render_api_reference


class Page(HTMLParser):
    """Ids, addresses that the page refers to, and its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.elements: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            elif name in {"href", "src", "action", "srcset", "data"}:
                self.references.append(str(value))


@pytest.fixture
async def answer() -> httpx.Response:
    app = create_application(None, None, Health())  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        return await client.get("/docs")


async def test_reference_holds_every_operation_and_every_link_leads_somewhere(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    page = Page(answer.text)
    wanted = {f"{method.lower()}-{route.path_format}" for route in guarded_routes() for method in route.methods or ()}
    assert wanted <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert {reference for reference in page.references if not reference.startswith("#")} == {
        "/openapi.json",
        "/asyncapi.json",
    }
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)


async def test_reference_needs_no_script_and_its_style_is_the_one_that_the_policy_allows(
    answer: httpx.Response,
) -> None:
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not {"script", "link", "img", "iframe"} & Page(answer.text).elements
    assert not re.search(r"\bstyle=|\bon\w+=|@import|url\(", answer.text)


def test_text_of_the_document_is_shown_as_text() -> None:
    operation = {"tags": ["<b>"], "description": "<script>x</script> `a<b`", "responses": {}, "parameters": []}
    document = {
        "info": {"title": "<i>T", "description": "d"},
        "paths": {'/v1/"><img src=x>': {"get": operation}},
        "components": {"schemas": {"S<": {"type": "string", "description": "<u>"}}},
    }
    page = Page(render_api_reference(document))
    assert not {"script", "img", "i", "b", "u"} & page.elements
