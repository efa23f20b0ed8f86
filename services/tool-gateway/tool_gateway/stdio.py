"""A stdio server as a child process: what it sends is limited, what it says is logged, and it ends with the service."""

import asyncio
import ctypes
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from flotilla.runtime.cancellation import cancel_all

_PR_SET_PDEATHSIG = 1
_STDERR_LINE_BYTES = 8192
_DISCARD_BYTES = 65536
EXIT_S = 2.0
"""How long a server may take to exit once its stdin is closed."""
log = structlog.get_logger(__name__)

Received: TypeAlias = SessionMessage | Exception
Streams: TypeAlias = tuple[MemoryObjectReceiveStream[Received], MemoryObjectSendStream[SessionMessage]]


@asynccontextmanager
async def start_stdio_server(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: str | None,
    max_message_bytes: int,
    says: Callable[[str], None],
    ended: Callable[[], None],
) -> AsyncIterator[Streams]:
    """Start a server and yield the streams of its messages; `says` gets each line of its stderr, `ended` is
    called when nothing more comes from it.

    The stream of what it sends ends when it exits, or sends a message of more than `max_message_bytes`.

    Raises:
        OSError: it can't be started.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=dict(env),
        cwd=cwd,
        limit=max_message_bytes,
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )
    received_in, received = anyio.create_memory_object_stream[Received](0)
    to_send, to_send_out = anyio.create_memory_object_stream[SessionMessage](0)
    pipes = [
        asyncio.create_task(_read(process, received_in, ended), name=f"stdout of {argv[0]}"),
        asyncio.create_task(_write(process, to_send_out), name=f"stdin of {argv[0]}"),
        asyncio.create_task(_listen(process, says), name=f"stderr of {argv[0]}"),
    ]
    try:
        yield received, to_send
    finally:
        await cancel_all(pipes)
        await asyncio.shield(_ended(process))
        for stream in (received_in, received, to_send, to_send_out):
            stream.close()


async def _read(process: Process, received: MemoryObjectSendStream[Received], ended: Callable[[], None]) -> None:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        async with received:
            while line := await _line(process.stdout):
                await received.send(_message(line))
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        log.debug("mcp_session_closed")
    finally:
        ended()


async def _line(stdout: asyncio.StreamReader) -> bytes:
    """Return the next line; nothing at the end, or when the line is over the limit."""
    try:
        return await stdout.readline()
    except ValueError:
        log.warning("mcp_message_too_large")
        return b""


def _message(line: bytes) -> Received:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


async def _write(process: Process, to_send: MemoryObjectReceiveStream[SessionMessage]) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    with suppress(OSError, anyio.ClosedResourceError):
        async for each in to_send:
            process.stdin.write(each.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            await process.stdin.drain()


async def _listen(process: Process, says: Callable[[str], None]) -> None:
    """Pass on whole lines, of which the beginning is enough: a part of a credential could not be masked."""
    assert process.stderr is not None  # noqa: S101 - it is a pipe
    kept = b""
    while piece := await process.stderr.read(_STDERR_LINE_BYTES):
        *lines, rest = (kept + piece).split(b"\n")
        for line in lines:
            says(_text(line))
        kept = rest[:_STDERR_LINE_BYTES]
    if kept:
        says(_text(kept))


def _text(line: bytes) -> str:
    return line[:_STDERR_LINE_BYTES].decode(errors="replace")


async def _ended(process: Process) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    process.stdin.close()
    # A process counts as ended once its pipes are read to their end: one that floods them would never be.
    rest = [asyncio.create_task(_discard(pipe)) for pipe in (process.stdout, process.stderr)]
    await _exited(process)
    # Its own children, too: the group is a session of its own.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await _exited(process)
    await cancel_all(rest)
    # A child of its that left the group may still have the pipes.
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - nothing else closes them


async def _exited(process: Process) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(EXIT_S):
            await process.wait()


async def _discard(pipe: asyncio.StreamReader | None) -> None:
    assert pipe is not None  # noqa: S101 - both are pipes
    while await pipe.read(_DISCARD_BYTES):
        pass


def _die_with_parent() -> Callable[[], None]:
    """For the child before exec: the kernel kills it when the service dies, however that dies."""
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)

    return ask_kernel
