"""helm, and the charts with their dependencies in place."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from tests.support.charts import chart_of

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "charts"
# What each service's chart needs to be installed alone.
ALONE = (
    "dependencies.postgres.existingSecret=pg",
    "global.dependencies.redis.existingSecret=redis",
    "global.dependencies.redis.address=redis:6379",
    "global.dependencies.kafka.bootstrapServers=kafka:9092",
    "global.dependencies.temporal.address=temporal:7233",
    "global.ticketKey.existingSecret=tickets",
    "global.ticketPublicKeys.existingConfigMap=tickets",
    "global.signingKey.existingSecret=signing",
)

Manifest: TypeAlias = dict[str, Any]
Helm: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]
Render: TypeAlias = Callable[..., list[Manifest]]


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Runs helm; the charts' dependencies are built."""
    found = subprocess.run([CHARTS / "tools"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.fail(found.stderr)
    subprocess.run([CHARTS / "build"], check=True)
    environment = os.environ | {"PATH": f"{found.stdout.strip()}:{os.environ['PATH']}"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["helm", *arguments], cwd=CHARTS, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """The manifests of a chart with `--set` values, and values files; fails with helm's own message."""

    def manifests(chart: str, *values: str, files: tuple[str, ...] = ()) -> list[Manifest]:
        done = template(helm, chart, *values, files=files)
        assert done.returncode == 0, done.stderr
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    return manifests


def template(helm: Helm, chart: str, *values: str, files: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`helm template` as release `fleet`."""
    chart, own = chart_of(chart)
    options = [word for value in (*own, *values) for word in ("--set", value)]
    options += [word for file in files for word in ("--values", file)]
    return helm("template", "fleet", chart, "--namespace", "flotilla", *options)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Those of one kind."""
    return [each for each in manifests if each["kind"] == kind]
