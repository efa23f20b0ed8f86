"""Liveness and readiness, and the small HTTP server that shows them beside the metrics.

Readiness asks the dependencies; liveness asks only whether the process still moves. A dependency that is away
must never get a pod restarted.
"""

import asyncio
import math
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeAlias

import uvicorn
from prometheus_client import REGISTRY
from prometheus_client.openmetrics import exposition as openmetrics
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.runtime.http_limits import HttpLimits, limited_protocol

Check: TypeAlias = Callable[[], Awaitable[None]]
"""Returns when all is well; raises RetryLater with the reason and the fix, when not."""

CHECK_TIMEOUT_S = 5.0


class Health:
    """What a process knows of its own state. Checks run on each request of `/readyz`."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self._progress: dict[str, tuple[float, float]] = {}
        self._ended: dict[str, str] = {}
        self._restarts: Counter[str] = Counter()
        self.stopping = False

    def add_check(self, name: str, check: Check) -> None:
        """Make readiness depend on `check`."""
        self._checks[name] = check

    def expect_progress(self, name: str, within_s: float) -> None:
        """Make liveness depend on `note_progress(name)` being called at least every `within_s` seconds."""
        self._progress[name] = (within_s, time.monotonic())

    def note_progress(self, name: str) -> None:
        """Note that the loop `name` moved (or that it has good reason to wait)."""
        self._note(name, time.monotonic())

    def rest(self, name: str) -> None:
        """Note that the loop `name` waits, for as long as it likes; the next `note_progress` ends it."""
        self._note(name, math.inf)

    def _note(self, name: str, at: float) -> None:
        if name in self._progress:
            self._progress[name] = (self._progress[name][0], at)

    def stop_expecting(self, name: str) -> None:
        """Expect nothing more of the loop `name`."""
        self._progress.pop(name, None)

    def note_progress_of_all(self) -> None:
        """Note that every loop has good reason to wait; one that rests goes on resting."""
        for name, (_, last) in self._progress.items():
            if last != math.inf:
                self.note_progress(name)

    def stuck_loops(self) -> list[str]:
        """The loops that did not move in time."""
        now = time.monotonic()
        return [name for name, (within_s, last) in self._progress.items() if now - last > within_s]

    def task_started(self, name: str) -> None:
        """Note that the task `name` lives."""
        self._ended.pop(name, None)

    def task_ended(self, name: str, reason: str) -> None:
        """Make liveness fail until the task `name` lives again."""
        self._ended[name] = reason
        self._restarts[name] += 1

    def liveness(self) -> dict[str, Any]:
        """What `/livez` shows: `status`, loops that are `stuck`, tasks that `ended`, how often each did so far."""
        stuck = self.stuck_loops()
        status = "ended" if self._ended else "stuck" if stuck else "ok"
        return {"status": status, "stuck": stuck, "ended": dict(self._ended), "restarts": dict(self._restarts)}

    async def readiness_problems(self) -> dict[str, str]:
        """Why the process is not ready, by check; empty when it is."""
        problems = {"process": "shutting down"} if self.stopping else {}
        answers = await asyncio.gather(*(self._ask(check) for check in self._checks.values()))
        problems.update({name: why for name, why in zip(self._checks, answers, strict=True) if why})
        return problems

    async def _ask(self, check: Check) -> str | None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await check()
        except TimeoutError:
            return f"no answer within {CHECK_TIMEOUT_S:g} s"
        except RetryLater as reason:
            return str(reason)
        except Exception as reason:  # noqa: BLE001 - the edge: whatever it is, the process is not ready, and says why
            return f"{type(reason).__name__}: {reason}"
        return None


def health_routes(health: Health) -> list[Route]:
    """`/livez`, `/readyz` and `/metrics`."""

    async def livez(_request: Request) -> Response:
        state = health.liveness()
        return JSONResponse(state, status_code=200 if state["status"] == "ok" else 503)

    async def readyz(_request: Request) -> Response:
        problems = await health.readiness_problems()
        return JSONResponse(
            {"status": "not ready" if problems else "ready", "problems": problems},
            status_code=503 if problems else 200,
        )

    async def metrics(_request: Request) -> Response:
        return Response(openmetrics.generate_latest(REGISTRY), media_type=openmetrics.CONTENT_TYPE_LATEST)

    return [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]


OnLost: TypeAlias = Callable[["asyncio.Task[None]"], None]


class EmbeddedServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @asynccontextmanager
    async def serving(self, on_lost: OnLost = lambda task: None) -> AsyncIterator[int]:
        """Serve while the block runs; yield the port. Requests in hand are finished on the way out.

        `on_lost` is called with the server's task if that ends before the block.

        Raises:
            ConfigurationError: the port can't be listened on.
        """
        # Bound here, since uvicorn answers a taken port with SystemExit from inside its task.
        with ExitStack() as stack:
            listeners = [stack.enter_context(each) for each in _listening(self.config.host, self.config.port)]
            task = asyncio.create_task(self._serve(listeners), name="http")
            while not self.started and not task.done():  # noqa: ASYNC110 - uvicorn has a flag, no event
                await asyncio.sleep(0.005)
            task.add_done_callback(on_lost)
            try:
                yield listeners[0].getsockname()[1]
            finally:
                task.remove_done_callback(on_lost)
                self.should_exit = True
                await asyncio.wait([task])


def _listening(host: str, port: int) -> list[socket.socket]:
    """Listen on `host`; `::` is every address of both families.

    IPv4 has a socket of its own there: a shared one would show its clients as IPv6 addresses, which no limit and no
    list of trusted proxies knows.
    """
    first = _listener(host, port)
    if host != "::":
        return [first]
    try:
        return [first, _listener("0.0.0.0", first.getsockname()[1])]  # noqa: S104 - as the host says
    except ConfigurationError:
        first.close()
        raise


def _listener(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise ConfigurationError(f"can't listen on {host}:{port}: {error.strerror}; set another port") from error
    # Connections inherit it. asyncio sets it only on sockets whose protocol is named, and without it the body of a
    # small answer waits until the client has acknowledged the headers, which takes it 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def http_server(
    app: Starlette, host: str, port: int, *, grace_s: int = 5, limits: HttpLimits | None = None
) -> EmbeddedServer:
    """A uvicorn server for `app` that lives in this event loop."""
    limits = limits or HttpLimits()
    config = uvicorn.Config(
        app,
        http=limited_protocol(limits),  # type: ignore[arg-type]  # uvicorn only calls it
        proxy_headers=bool(limits.trusted_proxies),
        forwarded_allow_ips=list(limits.trusted_proxies),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=grace_s,
    )
    return EmbeddedServer(config)


def health_server(health: Health, host: str, port: int) -> EmbeddedServer:
    """The server of the metrics port."""
    return http_server(Starlette(routes=health_routes(health)), host, port, grace_s=1)
