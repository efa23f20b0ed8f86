"""Namespaces that enforce Pod Security `restricted`, on the cluster of KUBECONFIG.

`make test-cluster` builds and loads the images first; FULL=1 adds the long tests (marker `full`). What a module names
`OPTIONS` goes to the `helm install` of its fleet. KEEP_FLEET=1 leaves each fleet installed, and uses one that is
there: for writing tests.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.cluster.fleet import RELEASE, Fleet, empty, installed
from tests.cluster.kubernetes import Namespace, cluster_problem

READY_WITHIN_S = 600
"""From `helm install` to the last ready pod: about a minute where two cores are free, and much more in a crowd."""
_KEEP = bool(os.environ.get("KEEP_FLEET"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder need a cluster."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("cluster")


Figures: TypeAlias = list[str]
_measured: Figures = []


@pytest.fixture(scope="session")
def figures() -> Figures:
    """Lines of what was measured on the way; none is asserted, all are printed at the end."""
    return _measured


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _measured:
        terminalreporter.write_line(f"measured: {line}")


@pytest.fixture(scope="session")
def cluster() -> None:
    """Fails, and explains how to fix it, where no cluster answers."""
    if problem := cluster_problem():
        pytest.fail(problem, pytrace=False)


def restricted(name: str) -> Namespace:
    """Makes a namespace that enforces Pod Security `restricted`."""
    namespace = Namespace(name)
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    namespace.run("kubectl", "apply", "--filename", "-", stdin=json.dumps(manifest))
    return namespace


@contextmanager
def own_namespace(name: str) -> Iterator[Namespace]:
    """A restricted namespace; gone, with all in it, after the block."""
    made = restricted(f"flotilla-{name}")
    yield made
    if not _KEEP:
        made.run("kubectl", "delete", "namespace", made.name, "--timeout=180s", timeout_s=200)


@pytest.fixture(scope="module")
def namespace(cluster: None, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the module's own."""
    with own_namespace(request.module.__name__.rpartition(".test_")[2].replace("_", "-")) as made:
        yield made


@pytest.fixture(scope="module")
def fleet(namespace: Namespace, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet with the demo's values and the module's own, ready."""
    made = Fleet(namespace, tuple(getattr(request.module, "OPTIONS", ())))
    if not (_KEEP and RELEASE in namespace.helm("list", "--short").split()):
        asyncio.run(installed(made, READY_WITHIN_S))
    yield made
    if not _KEEP and RELEASE in namespace.helm("list", "--short").split():
        namespace.helm("uninstall", RELEASE, "--wait")
        asyncio.run(empty(namespace))
