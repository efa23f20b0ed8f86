"""The API reference at `/docs`: the OpenAPI document as one page, without scripts and without other hosts."""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from html import escape
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from gateway.problems import MEDIA_TYPE

Schema: TypeAlias = Mapping[str, Any]
PATH = "/docs"
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
code{font:.9em ui-monospace,monospace}h3{margin-top:2.5rem;border-top:1px solid #8884;padding-top:1rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0}
.method{display:inline-block;min-width:4.5rem}nav ul{columns:2;list-style:none;padding:0}nav{overflow-wrap:anywhere}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
_FOR_PROGRAMS = """<p>For programs: <a href="/openapi.json">/openapi.json</a>, and for the fleet's messages
<a href="/asyncapi.json">/asyncapi.json</a>. Send a key as <code>Authorization: Bearer KEY</code>.</p>"""
_LIMITS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "default")


def api_reference_route(openapi: Callable[[], Schema]) -> Route:
    """The route; the page is made at its first request."""

    @cache
    def page() -> str:
        return render_api_reference(openapi())

    async def answer(_request: Request) -> Response:
        return HTMLResponse(await asyncio.to_thread(page), headers=_HEADERS)

    return Route(PATH, answer)


def render_api_reference(document: Schema) -> str:
    """Return the page of an OpenAPI document."""
    info = document["info"]
    operations = [
        (operation["tags"][0], method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])} API</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>',
        f"<h1>{escape(info['title'])} API</h1>{_paragraphs(info['description'])}",
        _FOR_PROGRAMS,
        f"<nav>{''.join(_contents(operations))}</nav>",
        *(part for operation in operations for part in _operation(*operation[1:])),
        "<h2>Schemas</h2>",
        *(part for name, schema in sorted(document["components"]["schemas"].items()) for part in _schema(name, schema)),
        "</html>",
    ]
    return "\n".join(parts)


def _contents(operations: list[tuple[str, str, str, Schema]]) -> Iterator[str]:
    for tag in dict.fromkeys(tag for tag, *_ in operations):
        links = (_link(method, path) for of, method, path, _ in operations if of == tag)
        yield f"<h2>{escape(tag.capitalize())}</h2><ul>{''.join(links)}</ul>"


def _link(method: str, path: str) -> str:
    name = f'<code><span class="method">{method}</span>{escape(path)}</code>'
    return f'<li><a href="#{_anchor(method, path)}">{name}</a>'


def _operation(method: str, path: str, operation: Schema) -> Iterator[str]:
    yield f'<h3 id="{_anchor(method, path)}"><code>{method} {escape(path)}</code></h3>'
    yield _paragraphs(operation["description"])
    roles = ", ".join(operation.get("x-roles", []))
    yield f"<p>Roles: {escape(roles)}.</p>" if roles else "<p>Needs no credentials.</p>"
    if parameters := operation.get("parameters"):
        rows = [
            (one["name"], one["in"], one["schema"], one.get("required", False), one.get("description", ""))
            for one in parameters
        ]
        yield _table("Parameter", rows)
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: {_type(content.get('schema', {}))} as <code>{escape(media_type)}</code>.</p>"
    yield "<ul>" + "".join(_answer(*answer) for answer in sorted(operation["responses"].items())) + "</ul>"


def _answer(status: str, response: Schema) -> str:
    contents = response.get("content", {})
    shapes = (
        _type(content["schema"]) for kind, content in contents.items() if kind != MEDIA_TYPE and "schema" in content
    )
    shape = ", ".join(shapes)
    return f"<li><code>{status}</code> {shape} {_inline(response['description'])}</li>"


def _schema(name: str, schema: Schema) -> Iterator[str]:
    yield f'<h3 id="{escape(name)}">{escape(name)}</h3>{_paragraphs(schema.get("description", ""))}'
    required = schema.get("required", [])
    rows = [
        (field, "", of, field in required, of.get("description", ""))
        for field, of in schema.get("properties", {}).items()
    ]
    yield _table("Field", rows) if rows else f"<p>{_type(schema)}</p>"


def _table(heading: str, rows: list[tuple[str, str, Schema, bool, str]]) -> str:
    lines = (
        f"<tr><td><code>{escape(name)}</code>{' (required)' if required else ''}<td>{place}<td>{_type(schema)}"
        f"{_limits(schema)}<td>{_inline(description)}"
        for name, place, schema, required, description in rows
    )
    return f"<table><tr><th>{heading}<th><th>Type<th>{''.join(lines)}</table>"


def _type(schema: Schema) -> str:
    if reference := schema.get("$ref"):
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_type(one) for one in schema[several])
    if "allOf" in schema:
        return _type(schema["allOf"][0])
    if "enum" in schema or "const" in schema:
        return " | ".join(f"<code>{escape(str(one))}</code>" for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    kind = schema.get("format") or schema.get("type", "any JSON")
    return escape(kind if isinstance(kind, str) else " or ".join(kind))


def _limits(schema: Schema) -> str:
    found = [f"{name} {escape(str(schema[name]))}" for name in _LIMITS if schema.get(name) is not None]
    return f" <small>({', '.join(found)})</small>" if found else ""


def _anchor(method: str, path: str) -> str:
    return escape(f"{method.lower()}-{path}")


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> str:
    """Escape `text`; what it has between backticks becomes code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
