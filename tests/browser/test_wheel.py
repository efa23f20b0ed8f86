"""What is shipped carries the console: a wheel without it would serve a page that says how to build it."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

GATEWAY = Path(__file__).parents[2] / "services" / "gateway"
# As the gateway serves them; where from is part of the answer, since an editable one is installed here, too.
_SERVE = """
import json, sys
import gateway.console_files as shipped
from starlette.applications import Starlette
from starlette.testclient import TestClient
client = TestClient(Starlette(routes=shipped.ConsoleFiles().routes()))
answers = {path: client.get(path) for path in sys.argv[1:]}
served = {path: [answer.status_code, answer.text] for path, answer in answers.items()}
json.dump({"from": shipped.__file__, **served}, sys.stdout)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=GATEWAY, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_the_gateways_wheel_has_the_page_and_all_that_it_loads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        page = archive.read("gateway/console_dist/index.html").decode()
    loaded = re.findall(r'(?:src|href)="/([^"]+)"', page)
    assert {Path(name).suffix for name in loaded} == {".js", ".css", ".svg"}
    assert {f"gateway/console_dist/{name}" for name in loaded} <= names
    here = {path.relative_to(GATEWAY).as_posix() for path in (GATEWAY / "gateway/console_dist").glob("**/*.*")}
    assert here <= names


def test_what_the_wheel_installs_serves_the_console(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        page = archive.read("gateway/console_dist/index.html").decode()
    script = re.findall(r'src="(/assets/[^"]+\.js)"', page)[0]
    served = subprocess.run(
        [sys.executable, "-c", _SERVE, "/", "/sessions/any", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    answers = json.loads(served.stdout)
    assert answers["from"].startswith(str(tmp_path))
    for path in ("/", "/sessions/any"):
        status, text = answers[path]
        assert (status, script in text, "is not built" in text) == (200, True, False)
    assert answers[script][0] == 200
