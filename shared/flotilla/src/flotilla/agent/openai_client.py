"""`ctx.openai()`: OpenAI's own client, whose requests never leave the process but through `ctx.llm`.

A transport of its own, since an ASGI transport gives a stream only once it is whole.
"""

import json
from collections.abc import AsyncIterator

import httpx2
import openai

from flotilla.agent.chat_api import ChatApi, ChatResponse
from flotilla.agent.wrapped_errors import CAUSE_EXTENSION

IN_PROCESS_BASE_URL = "http://flotilla.invalid/v1"
"""Never resolved: RFC 2606 keeps `.invalid` free."""
_API_PATH = "/v1/"


def make_openai_http_client(api: ChatApi) -> httpx2.AsyncClient:
    """Return the HTTP client for whatever takes one."""
    return httpx2.AsyncClient(transport=InProcessChatTransport(api), timeout=None)


def make_openai_client(api: ChatApi) -> openai.AsyncOpenAI:
    """Return the client. It tries nothing again by itself."""
    return openai.AsyncOpenAI(
        api_key="flotilla", base_url=IN_PROCESS_BASE_URL, max_retries=0, http_client=make_openai_http_client(api)
    )


class InProcessChatTransport(httpx2.AsyncBaseTransport):
    """Hands requests to the API of one run of a task."""

    def __init__(self, api: ChatApi) -> None:
        self._api = api

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer from the API."""
        body = await request.aread()
        _, _, path = request.url.path.rpartition(_API_PATH)
        answer = await self._api.answer_request(request.method, path, body)
        return _to_httpx_response(answer)


def _to_httpx_response(answer: ChatResponse) -> httpx2.Response:
    if answer.events is not None:
        headers = {"content-type": "text/event-stream", **answer.headers}
        return httpx2.Response(answer.status, headers=headers, stream=_EventByteStream(answer.events))
    return httpx2.Response(
        answer.status,
        headers={"content-type": "application/json", **answer.headers},
        content=json.dumps(answer.document).encode(),
        extensions={} if answer.cause is None else {CAUSE_EXTENSION: answer.cause},
    )


class _EventByteStream(httpx2.AsyncByteStream):
    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._events
