"""The six services as processes, on servers that a test chooses."""

import asyncio
import os
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from flotilla.config import KafkaSettings
from flotilla_devstack import RunningStack
from flotilla_devstack.services import SERVICES, ServiceProcess
from flotilla_devstack.startup import run_in_parallel
from flotilla_devstack.tools import run_program
from tests.support.postgres import Database
from tests.support.waiting import eventually

Environment = Mapping[str, str]
_INSTALL_S = 120.0
_READY_S = 120.0
_ANSWER_S = 120.0


def environment_of(settings: KafkaSettings) -> dict[str, str]:
    """The settings as variables."""
    given = settings.model_dump(exclude_none=True)
    return {f"FLOTILLA_{name.upper()}": str(value) for name, value in given.items()}


class Fleet:
    """Its API, as an administrator."""

    def __init__(self, services: Mapping[str, ServiceProcess], key: str) -> None:
        self.services = services
        self.client = httpx.AsyncClient(
            base_url=services["gateway"].url, headers={"Authorization": f"Bearer {key}"}, timeout=60
        )

    async def ask(self, session: str) -> dict[str, Any]:
        """A question that a document answers; the run as it ended."""
        text = b"# Moorings\nEvery mooring line is inspected on Mondays by the harbour master.\n"
        uploaded = await self.client.post("/v1/documents", files={"file": ("harbour.md", text, "text/markdown")})
        assert uploaded.status_code in (200, 201), uploaded.text
        started = await self.client.post(f"/v1/sessions/{session}/runs", json={"query": "Who inspects mooring lines?"})
        assert started.status_code == 202, started.text
        run_id = started.json()["run_id"]

        async def ended() -> dict[str, Any] | None:
            run: dict[str, Any] = (await self.client.get(f"/v1/runs/{run_id}")).json()
            return run if run["status"] not in ("pending", "running") else None

        return dict(await eventually(ended, timeout_s=_ANSWER_S, every_s=0.2) or {})

    async def events(self, session: str) -> list[dict[str, Any]]:
        """All events of the session."""
        answer = await self.client.get(f"/v1/sessions/{session}/events", params={"limit": 1000})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["events"])


@asynccontextmanager
async def fleet_on(
    stack: RunningStack,
    database: Database,
    folder: Path,
    common: Environment,
    own: Callable[[str, str], Environment],
) -> AsyncIterator[Fleet]:
    """A fleet that lives as long as the block. `common` goes to the install and to every service, `own` to one by its
    name and its role."""
    key = secrets.token_hex(32)
    owner = {"FLOTILLA_POSTGRES_DSN": database.superuser_dsn, "FLOTILLA_ADMIN_KEY": key}
    argv = (sys.executable, "-m", "flotilla.install")
    environment = {**os.environ, **stack.environment(), **common, **owner}
    await asyncio.to_thread(
        run_program, argv, log=folder / "install.log", cwd=folder, env=environment, timeout_s=_INSTALL_S
    )
    queue = {"FLOTILLA_TASK_QUEUE": f"topologies-{secrets.token_hex(4)}", "OPENAI_API_KEY": ""}
    name = database.superuser_dsn.rpartition("/")[2]
    services = {
        each: stack.service(each, env={**common, **queue, **own(each, SERVICES[each].role)}, database=name)
        for each in SERVICES
    }
    try:
        await asyncio.to_thread(run_in_parallel, list(services.values()), _start, threading.Event())
        fleet = Fleet(services, key)
        async with fleet.client:
            yield fleet
    finally:
        for service in services.values():
            service.stop()


def _start(service: ServiceProcess) -> None:
    service.start()
    service.wait_ready(_READY_S)
