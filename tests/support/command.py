"""`flotilla ARGUMENTS` in a fork of a process that has imported it: a process of its own costs half a second each time.

The fork gets the arguments, the environment and the output of its own, so it is what a user's shell starts, less the
imports. Run as a program, this module is the process that forks.
"""

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_IMPORTED = ("httpx", "rich.markup", "rich.table", "flotilla_devstack")
"""What verbs import when they run, beside the modules of the command."""
_one_at_a_time = threading.Lock()


def run_command(arguments: list[str], env: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` would return for the command with text captured."""
    with _one_at_a_time, TemporaryDirectory(prefix="command-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        asked = {"argv": arguments, "env": {**env}, "cwd": str(Path.cwd()), "files": [str(out), str(err)]}
        code = _ask({**asked, "timeout_s": timeout_s})
        return subprocess.CompletedProcess(["flotilla", *arguments], code, out.read_text(), err.read_text())


def _ask(asked: dict[str, Any]) -> int:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(asked) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


@cache
def _server() -> "subprocess.Popen[str]":
    """Ends with this process, which holds the other end of its input."""
    command = [sys.executable, "-m", __name__]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def _serve() -> None:
    import flotilla_cli

    for name in _IMPORTED:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(flotilla_cli.__path__, "flotilla_cli."):
        importlib.import_module(module.name)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(asked)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(asked: dict[str, Any]) -> None:
    """Be the command, and end as it ends."""
    from flotilla_cli.main import main

    for number, name in ((0, os.devnull), *enumerate(asked["files"], 1)):
        opened = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, number)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.argv = ["flotilla", *asked["argv"]]
    signal.alarm(int(asked["timeout_s"]) + 1)
    code: int | str | None = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - as the interpreter ends: its traceback, and 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else bool(code))


if __name__ == "__main__":
    _serve()
