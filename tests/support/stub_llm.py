"""An OpenAI-compatible endpoint over real HTTP, which counts what it is asked. As a fixture, or as a process:

    python -m tests.support.stub_llm --port 0 --mode ok        prints its base URL, then serves

`GET /stub/requests` gives the count per question, `POST /stub/modes` with `{"modes": [...]}` sets what it does: each
request takes the next mode, the last one stays. The modes are the keys of `MODES`. `answer` and `delay_s` beside it set
what it says, and how slowly; `script` what it says in mode `scripted`: by question a list of turns, each
`{"text": ...}`, `{"calls": [[name, arguments as JSON], ...]}` or `{"mode": ...}`. The number of the model's messages
so far is that of the turn; the last one stays.
"""

import argparse
import asyncio
import json
import math
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from flotilla.runtime.health import http_server

LOGPROB = math.log(0.9)
ANSWER = "The documents say so [1]."
QUESTION_TAG = "Question:"
NEVER = "never"


class StubLlm:
    """What it was asked, and what it does next."""

    def __init__(self, modes: list[str], delay_s: float = 0.05) -> None:
        self.modes = modes
        self.delay_s = delay_s
        self.answer = ANSWER
        self.asked: Counter[str] = Counter()
        """Requests by question: the last line of the last user message."""
        self.asked_at: defaultdict[str, list[float]] = defaultdict(list)
        """When: seconds since 1970, by question."""
        self.requests: list[dict[str, Any]] = []
        self.script: dict[str, list[dict[str, Any]]] = {}
        self.url = ""
        """Base URL, for OPENAI_BASE_URL."""

    @property
    def total(self) -> int:
        return self.asked.total()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/stub/requests", self._counts),
                Route("/stub/modes", self._set_modes, methods=["POST"]),
            ]
        )

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        self.asked[question_of(body)] += 1
        self.asked_at[question_of(body)].append(time.time())
        mode = self.modes.pop(0) if len(self.modes) > 1 else self.modes[0]
        if mode == NEVER:
            await request.receive()  # the body is read, so the next message is the client's going away
            return Response(status_code=503)
        return await MODES[mode](self, body)

    async def _counts(self, _request: Request) -> Response:
        return JSONResponse({"total": self.total, "by_question": self.asked, "at": self.asked_at})

    async def _set_modes(self, request: Request) -> Response:
        asked = await request.json()
        modes = asked["modes"]
        unknown = [mode for mode in modes if mode not in MODES]
        if unknown or not modes:
            return JSONResponse({"error": f"unknown modes {unknown}; there are {sorted(MODES)}"}, status_code=422)
        self.modes = modes
        self.answer = asked.get("answer", ANSWER)
        self.delay_s = asked.get("delay_s", self.delay_s)
        self.script |= asked.get("script", {})
        return JSONResponse({"modes": modes})


def question_of(body: dict[str, Any]) -> str:
    """The question of a request: what follows `Question:` in its last user message."""
    content = next(message["content"] for message in reversed(body["messages"]) if message["role"] == "user")
    return str(content).rsplit(QUESTION_TAG, 1)[-1].strip()


async def _ok(stub: StubLlm, body: dict[str, Any], *, logprobs: bool = True, delay_s: float = 0.0) -> Response:
    return _streamed(body, _answer_chunks(body, stub.answer, logprobs=logprobs and bool(body.get("logprobs"))), delay_s)


async def _no_logprobs(stub: StubLlm, body: dict[str, Any]) -> Response:
    return await _ok(stub, body, logprobs=False)


async def _slow(stub: StubLlm, body: dict[str, Any]) -> Response:
    return await _ok(stub, body, delay_s=stub.delay_s)


async def _cut_off(stub: StubLlm, body: dict[str, Any]) -> Response:
    """Ends the stream in the middle of the answer."""
    return _streamed(body, _answer_chunks(body, stub.answer, logprobs=False)[:2], 0.0, done=False)


async def _garbage(_stub: StubLlm, _body: dict[str, Any]) -> Response:
    return Response("data: {this is not json\n\n", media_type="text/event-stream")


def _failing(status: int, message: str, code: str | None = None) -> Callable[..., Awaitable[Response]]:
    async def fail(_stub: StubLlm, _body: dict[str, Any]) -> Response:
        error = {"message": message, "type": "error", "param": None, "code": code}
        return JSONResponse({"error": error}, status_code=status)

    return fail


def _calling(name: str | None, arguments: str | None, *, once: bool) -> Callable[..., Awaitable[Response]]:
    """Asks for a tool: the first one offered, with the question as its query, where nothing else is said."""

    async def call(stub: StubLlm, body: dict[str, Any]) -> Response:
        answered = any(message["role"] == "tool" for message in body["messages"])
        if not body.get("tools") or (once and answered):
            return await _ok(stub, body)
        function = {
            "name": name or body["tools"][0]["function"]["name"],
            "arguments": arguments or json.dumps({"query": question_of(body)}),
        }
        started = {
            "index": 0,
            "id": f"call_{stub.total}",
            "type": "function",
            "function": {**function, "arguments": ""},
        }
        rest = {"index": 0, "function": {"arguments": function["arguments"]}}
        chunks = [_chunk({"role": "assistant", "tool_calls": [started]}), _chunk({"tool_calls": [rest]})]
        return _streamed(body, [*chunks, _chunk({}, finish="tool_calls")], 0.0)

    return call


async def _scripted(stub: StubLlm, body: dict[str, Any]) -> Response:
    turns = stub.script.get(question_of(body), [{"mode": "ok"}])
    turn = turns[min(sum(message["role"] == "assistant" for message in body["messages"]), len(turns) - 1)]
    if "mode" in turn:
        return await MODES[turn["mode"]](stub, body)
    if "text" in turn:
        return _streamed(body, _answer_chunks(body, turn["text"], logprobs=False), 0.0)
    calls = [
        {"index": n, "id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate(turn["calls"])
    ]
    chunks = [_chunk({"role": "assistant", "tool_calls": [one]}) for one in calls]
    return _streamed(body, [*chunks, _chunk({}, finish="tool_calls"), _usage(body, len(calls))], 0.0)


MODES: dict[str, Callable[[StubLlm, dict[str, Any]], Awaitable[Response]]] = {
    "ok": _ok,
    "no_logprobs": _no_logprobs,
    "slow": _slow,
    NEVER: _ok,  # told apart by the route, which sees the client go away
    "cut_off": _cut_off,
    "garbage": _garbage,
    "400": _failing(400, "Unrecognized request argument supplied: logprobs"),
    "401": _failing(401, "Incorrect API key provided", "invalid_api_key"),
    "403": _failing(403, "The project may not use this model"),
    "404": _failing(404, "The model does not exist", "model_not_found"),
    "429": _failing(429, "Rate limit reached", "rate_limit_exceeded"),
    "no_credit": _failing(429, "You exceeded your current quota", "insufficient_quota"),
    "500": _failing(500, "The server had an error"),
    "503": _failing(503, "Overloaded"),
    "tool": _calling(None, None, once=True),
    "tool_again_and_again": _calling(None, None, once=False),
    "tool_unknown": _calling("delete_everything", "{}", once=True),
    "tool_bad_arguments": _calling(None, '{"query": 7}', once=True),
    "scripted": _scripted,
}


def _answer_chunks(body: dict[str, Any], answer: str, *, logprobs: bool) -> list[dict[str, Any]]:
    pieces = [f"{word} " for word in answer.split(" ")]
    chunks = [_chunk({"role": "assistant", "content": ""})]
    for piece in pieces:
        token = {"token": piece, "logprob": LOGPROB, "bytes": None, "top_logprobs": []}
        chunks.append(_chunk({"content": piece}, logprobs={"content": [token]} if logprobs else None))
    return [*chunks, _chunk({}, finish="stop"), _usage(body, len(pieces))]


def _chunk(
    delta: dict[str, Any], *, finish: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
    return {"id": "chatcmpl-stub", "object": "chat.completion.chunk", "created": 0, "choices": [choice]}


def _usage(body: dict[str, Any], output_tokens: int) -> dict[str, Any]:
    input_tokens = sum(len(str(message.get("content", "")).split()) for message in body["messages"])
    total = input_tokens + output_tokens
    usage = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens, "total_tokens": total}
    return {"id": "chatcmpl-stub", "object": "chat.completion.chunk", "created": 0, "choices": [], "usage": usage}


def _streamed(body: dict[str, Any], chunks: list[dict[str, Any]], delay_s: float, *, done: bool = True) -> Response:
    async def events() -> AsyncIterator[str]:
        for chunk in chunks:
            await asyncio.sleep(delay_s)
            yield f"data: {json.dumps({**chunk, 'model': body['model']})}\n\n"
        if done:
            yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@asynccontextmanager
async def running_stub(*modes: str, port: int = 0, delay_s: float = 0.05) -> AsyncIterator[StubLlm]:
    """Serves on loopback while the block runs."""
    stub = StubLlm(list(modes or ("ok",)), delay_s)
    async with http_server(stub.app(), "127.0.0.1", port, grace_s=0).serving() as bound:
        stub.url = f"http://127.0.0.1:{bound}/v1"
        yield stub


async def _serve(port: int, modes: list[str], delay_s: float) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_stub(*modes, port=port, delay_s=delay_s) as stub:
        sys.stdout.write(f"{stub.url}\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--mode", action="append", choices=sorted(MODES), help="may be given several times")
    parser.add_argument("--delay-s", type=float, default=0.05, help="between two tokens, in mode slow")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.port, arguments.mode or ["ok"], arguments.delay_s))


if __name__ == "__main__":
    main()
