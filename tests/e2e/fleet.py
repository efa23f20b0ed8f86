"""The whole product, started as a user starts it: `flotilla up` in a folder of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx

from flotilla.bus import connect_redis
from flotilla.config import KafkaSettings
from flotilla.contracts.requests import OPEN_RUN_STATUSES
from flotilla_cli.local.stack import status_document
from flotilla_devstack import Stack, stack_status
from flotilla_devstack.folders import StateDir
from flotilla_devstack.ports import free_port
from flotilla_devstack.process import ProcessIdentity
from flotilla_devstack.redis_users import ADMIN, read_redis_passwords
from flotilla_devstack.servers.redis import redis_url
from flotilla_devstack.status import read_identity
from tests.support.catalog import SERVICES
from tests.support.command import run_command
from tests.support.waiting import eventually

FLOTILLA = Path(sys.executable).parent / "flotilla"
STARTS_AND_STOPS = {"up", "down", "demo"}


@dataclass
class Fleet:
    """One local stack: servers and services as processes. `env` reaches every service."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)
    http_port: int = 0
    """Of the gateway; 0 picks a free one."""
    agents: tuple[Path, ...] = ()
    """Folders of agents of one's own that it runs, too."""

    def cli(self, *arguments: str, check: bool = True, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs `flotilla ARGUMENTS` as a user would."""
        env = {**os.environ, **self.env, "FLOTILLA_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "300"}
        if arguments[0] in STARTS_AND_STOPS:
            words = [str(FLOTILLA), *arguments]
            done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
        else:
            done = run_command([*arguments], env, timeout_s)
        assert not check or done.returncode == 0, f"flotilla {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done

    def cli_json(self, *arguments: str) -> Any:
        """What `flotilla ARGUMENTS -o json` prints."""
        return json.loads(self.cli(*arguments, "-o", "json").stdout)

    def up(self) -> None:
        """Starts it, on a port of its own: the default one may be somebody's."""
        agents = [word for folder in self.agents for word in ("--agent", str(folder))]
        self.cli("up", "--port", f"gateway.http={self.http_port or free_port()}", *agents)

    def down(self) -> None:
        self.cli("down")

    def status(self) -> dict[str, Any]:
        """What `flotilla status -o json` prints, without a process for each look."""
        return status_document(stack_status(self.home))

    def process(self, name: str) -> dict[str, Any]:
        return next(process for process in self.status()["processes"] if process["name"] == name)

    def kafka_settings(self) -> KafkaSettings:
        """Where its Kafka is, with its administrator's login."""
        return KafkaSettings.model_validate(Stack.attach(self.home).kafka_settings())

    def key(self, name: str = "alice") -> str:
        keys = json.loads(Path(self.status()["keys_file"]).read_text())
        return cast("str", keys[name])

    def client(self, name: str = "alice") -> httpx.AsyncClient:
        """An API client that authenticates as `name`."""
        return httpx.AsyncClient(
            base_url=self.status()["url"], headers={"Authorization": f"Bearer {self.key(name)}"}, timeout=60
        )

    def signal(self, name: str, number: signal.Signals) -> int:
        """Sends a signal to one process of the stack and returns its pid."""
        pid = int(self.process(name)["pid"])
        os.kill(pid, number)
        return pid

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """SIGSTOP for as long as the block runs."""
        pid = self.signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @property
    def redis_url(self) -> str:
        """The stack's Redis, as its administrator."""
        password = read_redis_passwords(StateDir(self.home).redis_passwords_file)[ADMIN]
        return redis_url(self.process("redis")["ports"]["redis"], ADMIN, password)

    async def flush_redis(self) -> None:
        """FLUSHALL: every stream, group and key is gone."""
        async with connect_redis(self.redis_url) as redis:
            await redis.flushall()

    async def kill(self, name: str, timeout_s: float = 120) -> None:
        """kill -9 of one process; returns when the supervisor has another one ready in its place."""
        pid = self.signal(name, signal.SIGKILL)
        await eventually(lambda: self._replaced(name, pid), timeout_s=timeout_s, every_s=0.2)

    async def kill_everything(self, timeout_s: float = 60) -> None:
        """kill -9 of every process, as when the machine stops: nothing is left that would start or stop another."""
        status = stack_status(self.home)
        supervisor = read_identity(status["supervisor"])
        processes = [read_identity(entry["identity"]) for entry in status["processes"]]
        living = [identity for identity in (supervisor, *processes) if identity is not None]
        living[0].send(signal.SIGSTOP)  # first, so that it starts none again
        for identity in living:
            identity.send(signal.SIGKILL)
        # Also as zombies: PostgreSQL does not start while its former process has an entry in the process table.
        await eventually(lambda: not any(ProcessIdentity.of(one.pid) == one for one in living), timeout_s=timeout_s)

    def _replaced(self, name: str, old_pid: int) -> bool:
        process = self.process(name)
        return process["pid"] not in (None, old_pid) and process["state"] == "running"

    @contextmanager
    def replica(self, name: str) -> Iterator[str]:
        """A further process of a service that speaks HTTP, set up as the first one is; its URL."""
        pid = int(self.process(name)["pid"])
        command, environ = (Path(f"/proc/{pid}/{file}").read_text().split("\0")[:-1] for file in ("cmdline", "environ"))
        port = free_port()
        ports = {"FLOTILLA_HTTP_PORT": str(port), "FLOTILLA_METRICS_PORT": str(free_port())}
        process = subprocess.Popen(
            command,
            env={**dict(line.split("=", 1) for line in environ), **ports},
            cwd=Path(f"/proc/{pid}/cwd").readlink(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)

    def metrics(self, name: str) -> str:
        """What the process shows on its metrics port."""
        port = self.process(name)["ports"]["metrics"]
        return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text

    def logs(self, names: Iterable[str] = SERVICES) -> str:
        """The logs of some services, one after the other."""
        by_name = {process["name"]: process["log"] for process in self.status()["processes"]}
        return "\n".join(Path(by_name[name]).read_text(errors="replace") for name in names)


async def finished(client: httpx.AsyncClient, run_id: str, timeout_s: float = 180) -> dict[str, Any]:
    """The run, once it has ended. A gateway that is being restarted is asked again."""

    async def ended() -> dict[str, Any] | None:
        try:
            answer = await client.get(f"/v1/runs/{run_id}")
        except httpx.TransportError:
            return None
        if answer.status_code >= 500:
            return None
        run = cast("dict[str, Any]", answer.json())
        return run if run["status"] not in OPEN_RUN_STATUSES else None

    return cast("dict[str, Any]", await eventually(ended, timeout_s=timeout_s, every_s=0.1))


async def start_run(client: httpx.AsyncClient, session_id: str, query: str, key: str) -> str:
    """Starts a run; repeats the request under its idempotency key while the gateway is away."""

    async def accepted() -> str | None:
        try:
            answer = await client.post(
                f"/v1/sessions/{session_id}/runs", json={"query": query}, headers={"Idempotency-Key": key}
            )
        except httpx.TransportError:
            return None
        if answer.status_code >= 500:
            return None
        assert answer.status_code in (200, 202), answer.text
        return cast("str", answer.json()["run_id"])

    return cast("str", await eventually(accepted, timeout_s=120, every_s=0.1))


async def session_events(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    """All events of a session, by seq. A gateway that can't read them all yet says 503, and is asked again."""

    async def whole() -> list[dict[str, Any]] | None:
        try:
            answer = await client.get(f"/v1/sessions/{session_id}/events", params={"limit": 1000})
        except httpx.TransportError:
            return None
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return None
        assert answer.status_code == 200, answer.text
        return cast("list[dict[str, Any]]", answer.json()["events"])

    return cast("list[dict[str, Any]]", await eventually(whole, timeout_s=60, every_s=0.2))
