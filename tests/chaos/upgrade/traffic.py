"""What people do while a fleet is upgraded, and whether all of it came out as it should."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx

from tests.support.waiting import eventually

HANDBOOK = (
    "# Harbour handbook\n\nEvery mooring line is inspected by the harbour master on the first Monday of a month.\n"
)
EVERY_S = 1.0
PARKED = 4
FINAL = ("success", "error", "timeout", "cancelled")


class Target(Protocol):
    """Where requests go, and as whom."""

    @property
    def url(self) -> str: ...

    def key(self, name: str) -> str: ...


class Traffic:
    """Runs that are started all the time, reads between them, and approvals that wait since before the upgrade."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.runs: list[str] = []
        self._parked: list[str] = []
        self._answers: Counter[int] = Counter()
        self._failed: list[str] = []
        self._numbers = itertools.count(1)

    async def prepare(self) -> None:
        """Add a document, and park actions until people decide."""
        files = {"file": ("harbour.md", HANDBOOK.encode(), "text/markdown")}
        await self._ask("POST", "/v1/documents", files=files)
        for number in range(PARKED):
            body = {"action": "echo", "description": "A trial", "args": {"text": str(number)}, "risk_level": "high"}
            self._parked.append((await self._ask("POST", "/v1/actions", json=body))["action_id"])
        for action_id in self._parked:
            await eventually(lambda one=action_id: self._status(f"/v1/approvals/{one}", "pending"), timeout_s=60)  # type: ignore[misc]

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Send requests as long as the block runs."""
        stop = asyncio.Event()
        work = asyncio.create_task(self._send(stop))
        try:
            yield
        finally:
            stop.set()
            await work

    async def until_runs(self, count: int) -> None:
        """Wait until so many runs were started."""

        async def enough() -> bool:
            return len(self.runs) >= count

        await eventually(enough, timeout_s=120)

    def summary(self) -> str:
        """The requests so far, by status."""
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(self._answers.items()))
        return f"{len(self.runs)} runs started; requests: {answers}; failed: {len(self._failed)}"

    async def judged(self, say: Callable[[str], None]) -> bool:
        """Decide what was parked, wait for every run, verify the history; say and return whether all of it holds."""
        for action_id in self._parked:
            await self._approve(action_id)
        ends = Counter([await self._end(f"/v1/runs/{run_id}", *FINAL) for run_id in self.runs])
        actions = Counter([await self._end(f"/v1/actions/{one}", "completed", "failed") for one in self._parked])
        verdict = await self._verdict()
        say(self.summary())
        say(f"runs: {dict(ends)}; parked actions: {dict(actions)}; history ok: {verdict['ok']}")
        for failed in [*self._failed, *map(str, verdict["problems"])]:
            say(f"FAILED {failed}")
        return not self._failed and set(ends) == {"success"} and set(actions) == {"completed"} and bool(verdict["ok"])

    async def _send(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            number = next(self._numbers)
            await self._ask("POST", "/v1/sessions", json={"session_id": f"s{number}"})
            started = await self._ask(
                "POST", f"/v1/sessions/s{number}/runs", json={"query": "Who inspects mooring lines?"}
            )
            if started:
                self.runs.append(started["run_id"])
            await self._ask("GET", f"/v1/sessions/s{number}/events")
            await self._ask("GET", "/v1/approvals")
            await asyncio.sleep(EVERY_S)

    async def _ask(self, method: str, path: str, *, name: str = "alice", **content: Any) -> Any:
        """One request, sent once: what fails is noted."""
        headers = {"Authorization": f"Bearer {self._target.key(name)}"}
        try:
            async with httpx.AsyncClient(base_url=self._target.url, headers=headers, timeout=60) as client:
                answer = await client.request(method, path, **content)
        except httpx.HTTPError as error:
            self._failed.append(f"{method} {path}: {type(error).__name__} {error}")
            return {}
        self._answers[answer.status_code] += 1
        if answer.is_error:
            self._failed.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return {}
        return answer.json()

    async def _approve(self, action_id: str) -> None:
        shown = await self._ask("GET", f"/v1/approvals/{action_id}", name="bob")
        body = {"decision": "approve", "content_hash": shown["content_hash"]}
        await self._ask("POST", f"/v1/approvals/{action_id}/decision", name="bob", json=body)

    async def _end(self, path: str, *ends: str) -> str:
        async def ended() -> str | None:
            status = str((await self._ask("GET", path)).get("status"))
            return status if status in ends else None

        return await eventually(ended, timeout_s=180, every_s=0.5)

    async def _status(self, path: str, status: str) -> bool:
        headers = {"Authorization": f"Bearer {self._target.key('alice')}"}
        async with httpx.AsyncClient(base_url=self._target.url, headers=headers, timeout=60) as client:
            answer = await client.get(path)
        return answer.status_code == 200 and bool(answer.json()["status"] == status)

    async def _verdict(self) -> dict[str, Any]:
        """What `audit verify` finds, once every event is signed."""

        async def settled() -> dict[str, Any] | None:
            found: dict[str, Any] = await self._ask("GET", "/v1/audit/verify", name="admin")
            return found if found.get("ok") or found.get("problems") else None

        return await eventually(settled, timeout_s=120, every_s=2.0)
