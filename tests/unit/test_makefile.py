"""The Makefile: a variable that nothing sets is empty, and turns `pytest $(THESE)` into every test there is."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TARGETS = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def recipes(*targets: str) -> subprocess.CompletedProcess[str]:
    """What `make TARGETS` would run, with warnings of variables that nothing sets."""
    command = ["make", "--dry-run", "--warn-undefined-variables", *targets]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_variable_of_a_target_is_set() -> None:
    assert re.findall("undefined variable.*", recipes(*TARGETS).stderr) == []


def test_the_test_target_names_what_each_run_of_pytest_takes() -> None:
    runs = [run for run in recipes("test").stdout.replace("||", "\n").splitlines() if "/pytest" in run]
    assert runs
    assert [run for run in runs if " tests/" not in run] == []


def test_what_make_runs_keeps_compiled_modules() -> None:
    command = ["make", "--eval", "environment: ; @env", "environment"]
    outside = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    shown = subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, text=True, check=True).stdout
    assert "PATH=" in shown
    assert "PYTHONDONTWRITEBYTECODE" not in shown
