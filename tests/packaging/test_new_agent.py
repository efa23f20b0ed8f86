"""`flotilla new agent`: what it writes lints, type-checks and passes its tests, here and where only wheels are."""

import shutil
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from flotilla.agent.template import write_agent
from tests.packaging.programs import BIN, run, succeed

NEW = (BIN / "flotilla", "new", "agent", "word-count")


def test_new_agent_lints_type_checks_and_tests(tmp_path: Path) -> None:
    folder = tmp_path / "word-count-agent"
    written = write_agent("word-count", folder)
    names = {path.name for path in written}
    assert names >= {"pyproject.toml", "agent.py", "main.py", "settings.py", "test_agent.py"}
    assert names >= {"service.toml", "values.yaml", "requirements.txt"}
    assert "Dockerfile" not in names  # the repository's own builds it
    succeed(BIN / "ruff", "format", "--check", ".", cwd=folder)
    succeed(BIN / "ruff", "check", ".", cwd=folder)
    succeed(BIN / "mypy", "word_count_agent", "tests", cwd=folder)
    succeed(BIN / "pytest", "-q", "-p", "no:cacheprovider", cwd=folder)


def put_wheel_of_a_stranger(folder: Path) -> None:
    """A newer distribution of the same name, as anybody may put one on a public index."""
    about = "flotilla_fleet-99.0.dist-info"
    with ZipFile(folder / "flotilla_fleet-99.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("flotilla/__init__.py", "raise SystemExit('a stranger')")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: flotilla-fleet\nVersion: 99.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


@pytest.mark.timeout(300)
def test_new_agent_outside_the_repository_installs_and_tests_without_an_index(tmp_path: Path) -> None:
    wheels, others, agent = tmp_path / "wheels", tmp_path / "others", tmp_path / "word-count-agent"
    succeed("make", "wheels", f"WHEELS={wheels}")
    succeed(*NEW, "--into", tmp_path, "--wheels", wheels)
    shutil.copytree(wheels, others, ignore=shutil.ignore_patterns("flotilla_fleet*"))
    put_wheel_of_a_stranger(others)
    python = tmp_path / "venv/bin/python"
    # Offline with an empty cache: there is no index to ask, and `others` stands for one.
    offline = {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_FIND_LINKS": str(others)}
    succeed(BIN / "uv", "venv", "--python", sys.executable, tmp_path / "venv")
    succeed(BIN / "uv", "pip", "install", "--python", python, "--editable", ".", "--group", "dev", cwd=agent, **offline)
    assert "flotilla-fleet==0.1.0" in succeed(BIN / "uv", "pip", "freeze", "--python", python)
    succeed(python, "-m", "pytest", "-q", cwd=agent)


def test_new_agent_outside_the_repository_is_refused_without_wheels(tmp_path: Path) -> None:
    done = run(*NEW, "--into", tmp_path, "--wheels", tmp_path)
    assert done.returncode == 1
    assert "run `make wheels`" in done.stderr
    assert not (tmp_path / "word-count-agent").exists()
