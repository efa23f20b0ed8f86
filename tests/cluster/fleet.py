"""A fleet installed by helm, and its API by port-forward."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg
import httpx

from flotilla_devstack.ports import free_port
from tests.cluster.kubernetes import Namespace
from tests.e2e.fleet import FLOTILLA
from tests.support.waiting import eventually

RELEASE = "fleet"
REPOSITORY = os.environ.get("IMAGE_REPOSITORY", "localhost/flotilla")
TAG = os.environ.get("IMAGE_TAG", "0.1.0")
DEMO_VALUES = ("charts/flotilla/values-demo.yaml", *os.environ.get("CLUSTER_VALUES", "").split())


def images(tag: str = TAG) -> tuple[str, ...]:
    """Options that name the images under test."""
    return ("--set", f"global.image.repository={REPOSITORY}", "--set", f"global.image.tag={tag}")


def demo_values() -> tuple[str, ...]:
    """Options for a fleet with servers of its own."""
    return tuple(word for file in DEMO_VALUES for word in ("--values", file))


@dataclass(frozen=True)
class Fleet:
    """The release `fleet` in a namespace; `options` go to each install and upgrade."""

    namespace: Namespace
    options: tuple[str, ...] = ()

    def install(self, *options: str) -> None:
        """One `helm install`; does not wait."""
        self.namespace.helm("install", RELEASE, *self._deploy(TAG, *options))

    def upgrade(self, *options: str, tag: str = TAG) -> None:
        """`helm upgrade`; does not wait."""
        self.namespace.helm("upgrade", RELEASE, *self._deploy(tag, *options))

    def _deploy(self, tag: str, *options: str) -> tuple[str, ...]:
        return ("charts/flotilla", *demo_values(), *images(tag), *self.options, *options)

    def key(self) -> str:
        """The first admin's API key."""
        return self.namespace.secret("flotilla-demo-admin", "admin-key")

    @contextmanager
    def reached(self) -> Iterator["Reached"]:
        """The gateway, by a port-forward that lives as long as the block."""
        with forwarded(self.namespace, f"service/{RELEASE}-gateway", 80) as url:
            yield Reached(url, self.key())

    @asynccontextmanager
    async def database(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """The demo's PostgreSQL as its owner, who sees all tenants."""
        dsn = self.namespace.secret("flotilla-demo-postgres", "owner")
        with forwarded(self.namespace, "service/flotilla-demo-postgres", 5432) as url:
            connection = await asyncpg.connect(dsn, host="127.0.0.1", port=urlsplit(url).port)
            try:
                yield connection
            finally:
                await connection.close()


@dataclass(frozen=True)
class Reached:
    """A fleet's API at a loopback address."""

    url: str
    key: str

    def cli(self, *arguments: str, timeout_s: float = 120) -> str:
        """What `flotilla ARGUMENTS` prints; fails with its words."""
        done = subprocess.run(
            [str(FLOTILLA), *arguments],
            env={**os.environ, "FLOTILLA_URL": self.url, "FLOTILLA_TOKEN": self.key, "NO_COLOR": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"flotilla {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def client(self, key: str = "") -> httpx.AsyncClient:
        """An API client with the admin's key, or another."""
        headers: Mapping[str, str] = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60)


@contextmanager
def forwarded(namespace: Namespace, target: str, port: int) -> Iterator[str]:
    """`kubectl port-forward` on a free port, for as long as the block."""
    local = free_port()
    command = ["kubectl", "--namespace", namespace.name, "port-forward", target, f"{local}:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("Forwarding from"), f"{' '.join(command)}: {said}\n{namespace.diagnosis()}"
        yield f"http://127.0.0.1:{local}"
    finally:
        process.terminate()
        process.wait(timeout=30)
        if process.stdout is not None:
            process.stdout.close()


async def installed(fleet: Fleet, within_s: float, *options: str) -> None:
    """Installs, and waits until all is ready."""
    fleet.install(*options)
    await fleet.namespace.all_ready(within_s)


async def empty(namespace: Namespace, within_s: float = 120) -> None:
    """Waits until nothing is left of a release."""
    try:
        await eventually(lambda: not namespace.everything(), within_s, every_s=2)
    except AssertionError:
        raise AssertionError(f"left behind: {sorted(namespace.everything())}") from None
