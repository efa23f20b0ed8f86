"""A model for the examples, in the standard library alone: an OpenAI-compatible endpoint that plays one conversation.

    python model.py PORT     OPENAI_BASE_URL=http://127.0.0.1:PORT/v1; GET /log shows what it was asked

It looks up the order that the question names, then reserves a new product and writes to the customer, both in one
answer, then refunds the order, then reports it. With real models, set OPENAI_BASE_URL and OPENAI_API_KEY instead.
"""

import hashlib
import json
import random
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MOST_DELAY_S = 0.0
USAGE = {"prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 150}


def next_message(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What the model says after `messages`."""
    question = next(str(_text(message)) for message in messages if message["role"] == "user")
    order = question.rpartition(" ")[2].strip(".?")
    results = [str(_text(message)) for message in messages if message["role"] == "tool"]
    if not results:
        return _calls(question, ("find_order", {"order": order}))
    if results[0].startswith("Error"):
        return {"role": "assistant", "content": f"There is no order {order}."}
    found = json.loads(results[0])
    if len(results) == 1:
        new = ("reserve", {"product": found["product"]})
        return _calls(question, new, ("write_to_customer", {"order": order, "text": "A new one is reserved for you."}))
    if len(results) == 3:
        return _calls(question, ("refund", {"order": order, "cents": found["cents"]}))
    return {"role": "assistant", "content": f"Order {order}: {results[3]}"}


def _calls(question: str, *calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    asked = []
    for name, arguments in calls:
        call_id = hashlib.sha256(f"{question} {name}".encode()).hexdigest()[:12]
        function = {"name": name, "arguments": json.dumps(arguments)}
        asked.append({"id": f"call_{call_id}", "type": "function", "function": function})
    return {"role": "assistant", "content": None, "tool_calls": asked}


def _text(message: dict[str, Any]) -> object:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


class Handler(BaseHTTPRequestHandler):
    """`POST /v1/chat/completions`, streamed or not."""

    log: list[dict[str, Any]]
    lock: threading.Lock
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Show the bodies of the requests."""
        with self.lock:
            self._send("application/json", json.dumps(self.log).encode())

    def do_POST(self) -> None:
        """Answer."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.log.append({**body, "at": time.time()})
        time.sleep(random.uniform(0, MOST_DELAY_S))  # noqa: S311 - a delay
        message = next_message(body["messages"])
        head = {"id": "chatcmpl-1", "created": int(time.time()), "model": body["model"]}
        reason = "tool_calls" if "tool_calls" in message else "stop"
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": reason}
            document = {**head, "object": "chat.completion", "choices": [choice], "usage": USAGE}
            return self._send("application/json", json.dumps(document).encode())
        for index, call in enumerate(message.get("tool_calls", ())):
            call["index"] = index
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": message, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
            {"choices": [], "usage": USAGE},
        ]
        events = [json.dumps({**head, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
        return self._send("text/event-stream", "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode())

    def _send(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        with suppress(ConnectionError):  # who asked may be gone
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def server(port: int) -> ThreadingHTTPServer:
    """Return the server; `serve_forever` runs it."""
    handler = type("ModelHandler", (Handler,), {"log": [], "lock": threading.Lock()})
    return ThreadingHTTPServer(("127.0.0.1", port), handler)


if __name__ == "__main__":
    server(int(sys.argv[1])).serve_forever()
