"""Functions in child processes that can be killed: of limited time and memory, without the parent's environment.

For work on what strangers send. A child is started when there is work for it, runs one call at a time and stays for
the next; one that runs over a limit, dies or is no longer waited for is killed and replaced. Arguments and results
travel as MessagePack, typed by the function's hints: a child that was taken over could make a pickle run anything here.
"""

import asyncio
import signal
import sys
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

import msgspec
import structlog

from flotilla.contracts.errors import Invalid, RetryLater
from flotilla.runtime.confined_child import HEADER, NO_MEMORY, REFUSED, RESULT, return_type

P = ParamSpec("P")
T = TypeVar("T")
MAX_RESULT_BYTES = 256 * 1024 * 1024
MAX_CALLS = 200
"""After as many a child is replaced, so that what its calls left behind does not add up."""
_START_S = 60.0
_RESTART_S = 1.0
_CLOSE_S = 0.02
_BUFFER_BYTES = 1024 * 1024
log = structlog.get_logger(__name__)


class FunctionRunner(Protocol):
    """How a function is run beside the event loop: `asyncio.to_thread` is one way."""

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Return what `function` returns."""


class OverLimit(Invalid):
    """The call took too long or too much memory, or broke the process that it ran in."""

    code = "over_limit"


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What one call may take."""

    cpu_s: float = 20.0
    wall_s: float = 60.0
    """Longer than `cpu_s`: other work takes the processor, too."""
    memory_bytes: int = 256 * 1024 * 1024
    """Beyond what the idle child has."""
    queue_s: float = 30.0
    """How long a call waits for a free child."""


class ConfinedProcesses:
    """A few children. Use it as `async with Confined.open(…) as confined: await confined.run(function, …)`."""

    def __init__(self, children: int, limits: CallLimits, modules: tuple[str, ...]) -> None:
        self._to_start = children
        self._limits = limits
        self._modules = modules
        self._idle = asyncio.Queue[_Child]()
        self._living = set[_Child]()
        self._background = set[asyncio.Task[None]]()
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *modules: str, children: int = 2, limits: CallLimits | None = None
    ) -> "AsyncIterator[ConfinedProcesses]":
        """Up to as many `children`, which import `modules` before their first call."""
        confined = cls(children, limits or CallLimits(), modules)
        try:
            yield confined
        finally:
            await confined._close()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(*args)`, run in a child. It is a function of a module, with type hints.

        Raises:
            OverLimit: it took too long or too much memory, or failed.
            Invalid: it raised that itself.
            RetryLater: no child was free in time.
        """
        if kwargs:
            raise TypeError("confined functions take positional arguments only")
        request = msgspec.msgpack.encode((function.__module__, function.__qualname__, args))
        child = await self._free_child()
        fit = False
        try:
            answer = await child.call(request)
            fit = child.calls < MAX_CALLS
        except OverLimit:
            raise
        except Invalid:
            fit = child.calls < MAX_CALLS  # it refused in order: a new one would take a second of the processor
            raise
        finally:
            if fit:
                self._idle.put_nowait(child)
            else:
                self._drop(child)
        return msgspec.msgpack.decode(answer, type=return_type(function))  # type: ignore[no-any-return]

    async def _free_child(self) -> "_Child":
        if self._idle.empty() and self._to_start:
            self._to_start -= 1
            self._start_one()
        try:
            async with asyncio.timeout(self._limits.queue_s):
                return await self._idle.get()
        except TimeoutError:
            raise RetryLater("all processes for such work are busy; try again in a minute") from None

    def _start_one(self) -> None:
        self._do(self._start())

    def _do(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="confined")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _start(self) -> None:
        while not self._closed:
            child = await _Child.start(self._limits, self._modules)
            self._living.add(child)
            if await child.is_ready() and not self._closed:
                self._idle.put_nowait(child)
                return
            await self._end(child)
            log.warning("confined_child_not_started")
            await asyncio.sleep(_RESTART_S)

    def _drop(self, child: "_Child") -> None:
        self._do(self._end(child))
        if not self._closed:
            self._start_one()

    async def _end(self, child: "_Child") -> None:
        await child.end()
        self._living.discard(child)

    async def _close(self) -> None:
        self._closed = True
        while not self._idle.empty():
            self._drop(self._idle.get_nowait())
        while self._background or self._living:
            for child in self._living:
                child.kill()
            await asyncio.sleep(_CLOSE_S)  # one that is only starting is not known yet


class _Child:
    def __init__(self, process: Process, requests: StreamWriter, answers: StreamReader, limits: CallLimits) -> None:
        self.process = process
        self._requests = requests
        self._answers = answers
        self.calls = 0
        self._limits = limits

    @classmethod
    async def start(cls, limits: CallLimits, modules: tuple[str, ...]) -> "_Child":
        arguments = (str(limits.memory_bytes), str(limits.cpu_s), *modules)
        command = (sys.executable, "-I", "-B", "-m", "flotilla.runtime.confined_child", *arguments)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={}, limit=_BUFFER_BYTES
        )
        if process.stdin is None or process.stdout is None:
            raise OSError("no pipes to the child")
        return cls(process, process.stdin, process.stdout, limits)

    async def is_ready(self) -> bool:
        """Wait until its imports are done; False when it failed or took too long."""
        with suppress(EOFError, ConnectionError, TimeoutError):
            async with asyncio.timeout(_START_S):
                await self._read()
                return True
        return False

    async def call(self, request: bytes) -> bytes:
        self.calls += 1
        try:
            async with asyncio.timeout(self._limits.wall_s):
                status, body = await self._exchange(request)
        except TimeoutError:
            raise OverLimit(f"takes longer than {self._limits.wall_s:g} s") from None
        except (EOFError, ConnectionError):
            raise OverLimit(await self._cause_of_death()) from None
        if status == RESULT:
            return body
        raise self._error(status, body.decode(errors="replace"))

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        self._requests.write(HEADER.pack(RESULT, len(request)))
        self._requests.write(request)
        await self._requests.drain()
        return await self._read()

    async def _read(self) -> tuple[int, bytes]:
        status, length = HEADER.unpack(await self._answers.readexactly(HEADER.size))
        if length > MAX_RESULT_BYTES:
            raise OverLimit(f"its result has more than {MAX_RESULT_BYTES} bytes")
        return status, await self._answers.readexactly(length)

    def _error(self, status: int, message: str) -> Exception:
        if status == REFUSED:
            return Invalid(message)
        if status == NO_MEMORY:
            return OverLimit(f"takes more than {self._limits.memory_bytes // 1024**2} MiB of memory")
        return OverLimit(f"can't be processed ({message})")

    async def _cause_of_death(self) -> str:
        code = await self.process.wait()
        if code == -signal.SIGXCPU:
            return f"takes more than {self._limits.cpu_s:g} s of processor time"
        return f"made the process that worked on it end ({code})"

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()

    async def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self.kill()
        await self.process.communicate()
