"""The timer that anchors the owned partitions' heads, and says how old the newest anchor is.

A number is never used for two statements. PostgreSQL may lose its newest checkpoints (a failover to a standby that
lagged, a restored backup) while Kafka has their copies. So where its newest one is not the one that this process made
or saw last, the topic is read behind it, and what is found there is abandoned by name: a new epoch begins.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from audit_consumer.checkpoints import load_last_checkpoint, make_checkpoint, publish_checkpoints
from flotilla.config.signing import Signer
from flotilla.contracts.checkpoints import CheckpointRecord
from flotilla.contracts.errors import RetryLater
from flotilla.kafka.session_log import KafkaEventLog
from flotilla.postgres import AWAY, Pool
from flotilla.runtime import Runtime
from flotilla.telemetry import metrics

log = structlog.get_logger(__name__)


class CheckpointJob:
    """Makes and publishes checkpoints of the partitions that `owned_partitions` returns, with their next offsets."""

    def __init__(
        self,
        pool: Pool,
        producer: AIOKafkaProducer,
        kafka: KafkaEventLog,
        signer: Signer,
        *,
        origin: str,
        owned: Callable[[], Mapping[int, int]],
    ) -> None:
        self._pool = pool
        self._producer = producer
        self._kafka = kafka
        self._signer = signer
        self._origin = origin
        self._last: dict[int, int] = {}
        """The number of each owned partition's newest checkpoint, as it was left."""
        self._abandoned: dict[int, list[CheckpointRecord]] = {}
        self._owned = owned
        self._anchored_at: dict[int, float] = {}

    async def publish_checkpoints_until_stopped(self, runtime: Runtime, interval_s: float) -> None:
        """Anchors every `interval_s` until `runtime.stop` is set, and a last time then."""
        while not runtime.stop.is_set():
            await runtime.sleep(interval_s)
            await self.publish_all_checkpoints()

    async def publish_all_checkpoints(self) -> None:
        """One round over the owned partitions; a server that is away is waited for in the next round."""
        owned = self._owned()
        for gone in self._anchored_at.keys() - owned.keys():
            metrics.AUDIT_CHECKPOINT_AGE.remove(str(gone))
            del self._anchored_at[gone]
            self._last.pop(gone, None)
        for partition, next_offset in owned.items():
            started = time.monotonic()
            if partition not in self._anchored_at:
                self._anchored_at[partition] = started
                metrics.AUDIT_CHECKPOINT_AGE.labels(str(partition)).set_function(
                    partial(self._newest_checkpoint_age_s, partition)
                )
            try:
                if await self._anchor_partition(partition, next_offset):
                    self._anchored_at[partition] = started
            except (KafkaError, *AWAY, TimeoutError, RetryLater) as error:
                log.warning("checkpoint_waits", partition=partition, reason=str(error) or type(error).__name__)

    def _newest_checkpoint_age_s(self, partition: int) -> float:
        """Computed when asked, for a checkpoint waits in the producer for as long as Kafka is unavailable."""
        return time.monotonic() - self._anchored_at[partition]

    async def _anchor_partition(self, partition: int, next_offset: int) -> bool:
        """Whether everything projected of the partition is anchored now, in PostgreSQL and in Kafka."""
        await self._find_abandoned_checkpoints(partition)
        while number := await self._make_next_checkpoint(partition, next_offset):
            log.info("checkpoint_made", partition=partition, number=number, next_offset=next_offset)
        await publish_checkpoints(self._pool, self._producer, self._kafka.checkpoints_topic, partition)
        return self._owned().get(partition) == next_offset

    async def _make_next_checkpoint(self, partition: int, next_offset: int) -> int | None:
        abandoned = self._abandoned.get(partition, [])
        number = await make_checkpoint(
            self._pool, partition, next_offset, self._signer, origin=self._origin, abandoned=abandoned
        )
        if number is not None:
            self._last[partition] = number
            self._abandoned.pop(partition, None)
        return number

    async def _find_abandoned_checkpoints(self, partition: int) -> None:
        """Find what was signed after PostgreSQL's newest checkpoint, unless it is the one that was left there."""
        last = await load_last_checkpoint(self._pool, partition)
        if self._last.get(partition) == last.number:
            return
        # Older versions did not keep where a copy is, and the topic can be too long to be read whole.
        known = last.published_offset is not None or not last.number
        copies = await self._kafka.read_checkpoints(last.published_offset) if known else {}
        numbers = sorted(n for p, n in copies if p == partition and n > last.number)
        self._abandoned[partition] = [copies[partition, number] for number in numbers]
        self._last[partition] = last.number
        if numbers:
            log.error("checkpoints_lost", partition=partition, last=last.number, in_kafka=numbers)
            metrics.AUDIT_CHECKPOINTS_LOST.labels(str(partition)).inc(len(numbers))
