"""Programs that the tests run to their end."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program, with `environment` beside this process's own; return its exit code and what it wrote."""
    words, everything = [str(part) for part in command], {**os.environ, **environment}
    return subprocess.run(words, cwd=cwd, env=everything, capture_output=True, text=True, check=False)


def succeed(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a program that has to exit with 0; return its output."""
    done = run(*command, cwd=cwd, **environment)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout
