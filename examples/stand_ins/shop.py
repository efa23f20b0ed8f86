"""A shop for the examples, in the standard library alone: it does each thing once per `Idempotency-Key`.

python shop.py PORT      GET /books shows what was asked of it, and what it did
"""

import json
import random
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MOST_ORDER_CHARACTERS = 8
MOST_DELAY_S = 0.0


class Shop:
    """What was asked, what was done, by path and key, and what orders cost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.asked: list[dict[str, Any]] = []
        self.done: dict[str, dict[str, Any]] = {}
        self.prices: dict[str, int] = {}
        """What orders cost now, in cents, where that has changed."""

    def order(self, name: str) -> dict[str, Any] | None:
        """Return an order at today's price, or None."""
        found = order_of(name)
        return found and {**found, "cents": self.prices.get(name, found["cents"])}

    def do(self, path: str, key: str, given: dict[str, Any]) -> dict[str, Any]:
        """Do it, unless it was done under this key already."""
        with self._lock:
            self.asked.append({"path": path, "key": key, **given})
        time.sleep(random.uniform(0, MOST_DELAY_S))  # noqa: S311 - a delay
        with self._lock:
            return self.done.setdefault(f"{path} {key}", {"path": path, "receipt": f"{path}-{key[:8]}", **given})


def order_of(name: str) -> dict[str, Any] | None:
    """Return the order `A1`, `A2` and so on; there are no others."""
    number = name.removeprefix("A")
    if not name.startswith("A") or not number.isdecimal() or len(name) > MOST_ORDER_CHARACTERS:
        return None
    return {"order": name, "product": f"lamp-{number}", "cents": 100 * int(number)}


class Handler(BaseHTTPRequestHandler):
    """`GET /orders/ID`, `POST /refunds`, `/reservations`, `/messages`."""

    shop: Shop
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Show an order, or the books."""
        if self.path == "/books":
            return self._answer(200, {"asked": self.shop.asked, "done": list(self.shop.done.values())})
        order = self.shop.order(self.path.removeprefix("/orders/"))
        return self._answer(200 if order else 404, order or {"error": "no such order"})

    def do_POST(self) -> None:
        """Do something, once per key."""
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(200, self.shop.do(self.path.strip("/"), self.headers["Idempotency-Key"], given))

    def _answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        with suppress(ConnectionError):  # who asked may be gone
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def server(port: int) -> ThreadingHTTPServer:
    """Return the server; `serve_forever` runs it."""
    return ThreadingHTTPServer(("127.0.0.1", port), type("ShopHandler", (Handler,), {"shop": Shop()}))


if __name__ == "__main__":
    server(int(sys.argv[1])).serve_forever()
