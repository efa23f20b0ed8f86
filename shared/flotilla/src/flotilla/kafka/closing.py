"""Ends an aiokafka producer within seconds, whatever its broker does.

`AIOKafkaProducer.stop` waits until Kafka takes what is queued, and for connections that may never close. When its
sender is cancelled a second time, it raises CancelledError, which would end the caller's task as if it were meant.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import ProducerClosed

REQUEST_IN_HAND_TIMEOUT_S = 1.0
"""For the request in hand."""
_CLOSE_TIMEOUT_S = 3.0

log = structlog.get_logger(__name__)


async def close_producer_without_flush(producer: AIOKafkaProducer) -> None:
    """Close without flushing: a request in hand gets a second, then everything of the producer is cancelled.

    Never raises for what the producer does, and takes at most 7 s.
    """
    sender: asyncio.Task[None] | None = producer._sender.sender_task  # noqa: SLF001 - no public abort
    if sender is not None:
        sender.cancel()
        await asyncio.wait([sender], timeout=REQUEST_IN_HAND_TIMEOUT_S)
    await _cancel_producer_tasks(producer)
    _fail_queued_batches(producer)
    # A task of its own: whatever cancellation comes out of the producer ends there.
    stopping = asyncio.create_task(producer.stop(), name="kafka-producer-stop")
    await asyncio.wait([stopping], timeout=_CLOSE_TIMEOUT_S)
    if not stopping.done() or stopping.cancelled() or stopping.exception():
        log.warning("kafka_producer_cut_off", problem=_describe_close_problem(stopping))
        stopping.cancel()


def _describe_close_problem(task: "asyncio.Task[None]") -> str:
    if not task.done():
        return f"still closing after {_CLOSE_TIMEOUT_S:g} s"
    return "cancelled" if task.cancelled() else repr(task.exception())


async def _cancel_producer_tasks(producer: AIOKafkaProducer) -> None:
    # A request may be in the middle of a connect, which no closed connection ends.
    tasks = list(_find_tasks_of(producer._sender, producer.client))  # noqa: SLF001
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT_S)


def _find_tasks_of(*owners: object) -> Iterator["asyncio.Task[Any]"]:
    """The tasks that run a method of one of `owners`; aiokafka keeps no list of its requests."""
    for task in asyncio.all_tasks():
        frame = getattr(task.get_coro(), "cr_frame", None)
        if frame is not None and any(frame.f_locals.get("self") is owner for owner in owners):
            yield task


def _fail_queued_batches(producer: AIOKafkaProducer) -> None:
    # Frees those who wait for a batch; the accumulator's own waiters must not be reported as unheard errors.
    accumulator = producer._message_accumulator  # noqa: SLF001
    queued = [batch for batches in accumulator._batches.values() for batch in batches]  # noqa: SLF001
    accumulator.fail_all(ProducerClosed())
    for batch in (*queued, *accumulator._pending_batches):  # noqa: SLF001
        for waiter in (batch.future, batch._drain_waiter):  # noqa: SLF001
            if waiter.done() and not waiter.cancelled():
                waiter.exception()
