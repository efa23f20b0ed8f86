"""The child process of `flotilla.runtime.confined`: reads calls from its input and writes results to its output."""

import importlib
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import cache, reduce
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, get_type_hints

import msgspec

from flotilla.contracts.errors import Invalid

HEADER = Struct(">BQ")
"""A status and the length of what follows."""
RESULT, REFUSED, NO_MEMORY, FAILED = range(4)
_STATM = Path("/proc/self/statm")


def return_type(function: Callable[..., Any]) -> Any:
    """Return what the result of `function` is decoded as."""
    return get_type_hints(function)["return"]


def main() -> int:
    """Work until the parent closes the input. Return the exit code."""
    memory_bytes, cpu_s, *modules = sys.argv[1:]
    for module in modules:
        importlib.import_module(module)
    requests, answers = sys.stdin.buffer, _take_output()
    _limit_memory(int(memory_bytes))
    _write(answers, RESULT, b"")
    while header := requests.read(HEADER.size):
        _, length = HEADER.unpack(header)
        _limit_time(float(cpu_s))
        status, body = _answer(requests.read(length))
        _write(answers, status, body)
        if status == NO_MEMORY:
            return 1
    return 0


def _take_output() -> BinaryIO:
    """The output, for answers only: what the work prints goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return answers


def _answer(request: bytes) -> tuple[int, bytes]:
    try:
        module, name, arguments = msgspec.msgpack.decode(request, type=tuple[str, str, list[Any]])
        function = _function(module, name)
        return RESULT, msgspec.msgpack.encode(function(*_typed(function, arguments)))
    except Invalid as refused:
        return REFUSED, str(refused).encode(errors="replace")
    except MemoryError:
        return NO_MEMORY, b""
    except Exception as error:  # noqa: BLE001 - the edge of the process: told to the parent
        return FAILED, type(error).__name__.encode()


@cache
def _function(module: str, name: str) -> Callable[..., Any]:
    found: Any = reduce(getattr, name.split("."), importlib.import_module(module))
    return found  # type: ignore[no-any-return]


def _typed(function: Callable[..., Any], arguments: list[Any]) -> list[Any]:
    hints = get_type_hints(function)
    names = list(hints)[: len(arguments)]
    return [
        msgspec.convert(value, hints[name], builtin_types=(bytes,))
        for name, value in zip(names, arguments, strict=True)
    ]


def _limit_memory(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if _STATM.exists():  # Linux; elsewhere address space is not limited
        size = int(_STATM.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + memory_bytes, size + memory_bytes))


def _limit_time(cpu_s: float) -> None:
    """The kernel ends the process when it has used `cpu_s` more seconds."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + cpu_s) + 1, resource.RLIM_INFINITY))


def _write(answers: BinaryIO, status: int, body: bytes) -> None:
    answers.write(HEADER.pack(status, len(body)))
    answers.write(body)
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
