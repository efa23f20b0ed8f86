"""People who use a fleet while its servers fail: they repeat what is not answered, and note what they saw."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

import httpx

PATIENCE_S = 240.0
_AGAIN_S = 0.5
_LOOK_S = 0.4
_LIMIT_S = 60.0
_PEOPLE = ("alice", "bob")


class Callers:
    """Alice asks, Bob decides."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        """Answers that were no success: `503`, `500`, `503 without Retry-After`, `no answer`."""
        self.slowest_s = 0.0
        """The longest that one request took."""
        self._clients: dict[str, httpx.AsyncClient] = {}

    @classmethod
    @asynccontextmanager
    async def of(cls, url: str, keys: dict[str, str]) -> AsyncIterator["Callers"]:
        """Connected as long as the block."""
        made = cls()
        async with AsyncExitStack() as stack:
            for person in _PEOPLE:
                headers = {"Authorization": f"Bearer {keys[person]}"}
                client = httpx.AsyncClient(base_url=url, headers=headers, timeout=_LIMIT_S)
                made._clients[person] = await stack.enter_async_context(client)
            yield made

    async def ask(
        self,
        method: str,
        path: str,
        *,
        person: str = "alice",
        also: Collection[int] = (),
        **content: Any,
    ) -> Any:
        """Repeat a request until it succeeds, and return the answer's JSON; None where its status is one of `also`."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            answer = await self._once(method, path, person, content)
            if answer is not None and answer.is_success:
                return answer.json()
            if answer is not None and answer.status_code in also:
                return None
            assert answer is None or answer.is_server_error, f"{method} {path}: {answer.status_code} {answer.text}"
            assert time.monotonic() < give_up, f"{method} {path}: no success in {PATIENCE_S:g} s; seen: {self.seen}"
            await asyncio.sleep(_AGAIN_S)

    async def until(self, path: str, statuses: Collection[str], *, person: str = "alice") -> dict[str, Any]:
        """Look until `status` is one of these; what is not there yet is looked for again."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            found: dict[str, Any] | None = await self.ask("GET", path, person=person, also=(HTTPStatus.NOT_FOUND,))
            if found and found["status"] in statuses:
                return found
            assert time.monotonic() < give_up, f"{path}: not {statuses} in {PATIENCE_S:g} s, but {found}"
            await asyncio.sleep(_LOOK_S)

    async def _once(self, method: str, path: str, person: str, content: dict[str, Any]) -> httpx.Response | None:
        began = time.monotonic()
        try:
            answer = await self._clients[person].request(method, path, **content)
        except httpx.TransportError as error:
            self.seen[f"no answer ({type(error).__name__})"] += 1
            return None
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        if answer.is_server_error:
            hint = "" if "retry-after" in answer.headers else " without Retry-After"
            self.seen[f"{answer.status_code}{hint}"] += 1
        return answer
