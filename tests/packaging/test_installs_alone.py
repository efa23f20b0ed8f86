"""Each service, installed alone from its own lock, imports: an undeclared dependency fails here."""

import sys
from pathlib import Path

import pytest

from tests.packaging.programs import BIN, ROOT, succeed
from tests.support.catalog import CATALOG, SERVICES

UV = BIN / "uv"
# What an image must not carry: agents need no Temporal, the event path no language model and no HTTP framework.
ABSENT = {
    "research-agent": {"temporalio", "aiokafka", "fastapi"},
    "writer-agent": {"temporalio", "aiokafka", "fastapi"},
    "tool-gateway": {"temporalio", "aiokafka", "fastapi", "openai"},
    "outbox-relay": {"temporalio", "redis", "fastapi", "openai"},
    "audit-consumer": {"temporalio", "redis", "fastapi", "openai"},
    "workflow-worker": {"aiokafka", "fastapi"},
    "gateway": {"openai"},
}
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_installed_alone_imports(service: str, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    succeed(UV, "venv", "--quiet", "--python", sys.executable, environment)
    python = environment / "bin" / "python"
    succeed(
        UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", ROOT / f"locks/{service}.txt"
    )
    succeed(
        UV,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "--no-deps",
        ROOT / "shared/flotilla",
        ROOT / f"services/{service}",
    )
    succeed(python, "-W", "error", "-c", IMPORT_ALL, CATALOG[service].module)
    listed = succeed(UV, "pip", "list", "--python", python, "--format", "freeze")
    installed = {line.split("==")[0] for line in listed.splitlines()}
    assert installed & ABSENT[service] == set()
