"""`flotilla new workflow`: the package that it writes lints, and its tests pass outside the repository."""

import sys
from pathlib import Path

import pytest

from tests.packaging.programs import BIN, run


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A new workflow's package in a folder of its own."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "flotilla_fleet-0.1.0-py3-none-any.whl").touch()
    written = run(BIN / "flotilla", "new", "workflow", "look-up", "--wheels", wheels, cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    return tmp_path / "look-up-workflow"


def test_its_tests_pass_and_record_a_history_that_replays(package: Path) -> None:
    tested = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package)
    assert tested.returncode == 0, tested.stdout
    assert [path.name for path in (package / "tests/histories").glob("*.json")] == ["1.json"]
    for check in (("check",), ("format", "--check")):
        linted = run(BIN / "ruff", *check, ".", cwd=package)
        assert linted.returncode == 0, linted.stdout


def test_its_tests_need_nothing_that_the_package_does_not_declare(package: Path) -> None:
    assert '"flotilla-fleet[temporal]",' in (package / "pyproject.toml").read_text()
    others = ("aiokafka", "asyncpg", "fastapi", "openai", "redis")
    (package / "conftest.py").write_text(f"import sys\n\nsys.modules.update(dict.fromkeys({others}))\n")
    tested = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=package)
    assert tested.returncode == 0, tested.stdout


def test_a_change_that_runs_under_way_do_not_bear_fails_its_replay_test(package: Path) -> None:
    first = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "replays", cwd=package)
    assert first.returncode == 0, first.stdout
    code = package / "look_up_workflow/workflow.py"
    code.write_text(code.read_text().replace('run.ask("research"', 'run.ask("search"'))
    changed = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "replays", cwd=package)
    assert changed.returncode == 1
    assert "NondeterminismError" in changed.stdout


def test_a_folder_that_holds_something_and_a_name_that_is_none_are_refused(package: Path) -> None:
    wheels = package.parent / "wheels"
    again = run(BIN / "flotilla", "new", "workflow", "look-up", "--wheels", wheels, cwd=package.parent)
    assert (again.returncode, "not empty" in again.stderr) == (1, True)
    named = run(BIN / "flotilla", "new", "workflow", "Look Up", "--wheels", wheels, cwd=package.parent)
    assert (named.returncode, "can't name a workflow" in named.stderr) == (2, True)
