"""Each service, installed alone from its own lock, imports: an undeclared dependency fails here."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.catalog import CATALOG, SERVICES

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"
# What an image must not carry: agents need no Temporal, the event path no language model and no HTTP framework.
ABSENT = {
    "research-agent": {"temporalio", "aiokafka", "fastapi", "openai"},
    "writer-agent": {"temporalio", "aiokafka", "fastapi"},
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
    _run(UV, "venv", "--quiet", "--python", sys.executable, environment)
    python = environment / "bin" / "python"
    _run(UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", ROOT / f"locks/{service}.txt")
    _run(
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
    _run(python, "-W", "error", "-c", IMPORT_ALL, CATALOG[service].module)
    listed = _run(UV, "pip", "list", "--python", python, "--format", "freeze")
    installed = {line.split("==")[0] for line in listed.splitlines()}
    assert installed & ABSENT[service] == set()


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout
