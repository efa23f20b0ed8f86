"""The timer that anchors the owned partitions' heads, and says how old the newest anchor is."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from audit_consumer.checkpoints import make_checkpoint, publish_checkpoints
from flotilla.eventstore.signing import Signer
from flotilla.postgres import AWAY, Pool
from flotilla.runtime import Runtime
from flotilla.telemetry import metrics

log = structlog.get_logger(__name__)


class Anchor:
    """Makes and publishes the checkpoints of the partitions that `owned` gives, with their next offsets."""

    def __init__(
        self, pool: Pool, producer: AIOKafkaProducer, topic: str, signer: Signer, owned: Callable[[], Mapping[int, int]]
    ) -> None:
        self._pool = pool
        self._producer = producer
        self._topic = topic
        self._signer = signer
        self._owned = owned
        self._anchored_at: dict[int, float] = {}

    async def run(self, runtime: Runtime, interval_s: float) -> None:
        """Anchors every `interval_s` until `runtime.stop` is set, and a last time then."""
        while not runtime.stop.is_set():
            await runtime.sleep(interval_s)
            await self.anchor_all()

    async def anchor_all(self) -> None:
        """One round over the owned partitions; a server that is away is waited for in the next round."""
        owned = self._owned()
        for gone in self._anchored_at.keys() - owned.keys():
            metrics.AUDIT_CHECKPOINT_AGE.remove(str(gone))
            del self._anchored_at[gone]
        for partition, next_offset in owned.items():
            started = time.monotonic()
            if partition not in self._anchored_at:
                self._anchored_at[partition] = started
                metrics.AUDIT_CHECKPOINT_AGE.labels(str(partition)).set_function(partial(self._age_s, partition))
            try:
                if await self._anchor(partition, next_offset):
                    self._anchored_at[partition] = started
            except (KafkaError, *AWAY, TimeoutError) as error:
                log.warning("checkpoint_waits", partition=partition, reason=str(error) or type(error).__name__)

    def _age_s(self, partition: int) -> float:
        """Computed when asked, for a checkpoint waits in the producer for as long as Kafka is away."""
        return time.monotonic() - self._anchored_at[partition]

    async def _anchor(self, partition: int, next_offset: int) -> bool:
        """Whether everything projected of the partition is anchored now, in PostgreSQL and in Kafka."""
        while number := await make_checkpoint(self._pool, partition, next_offset, self._signer):
            log.info("checkpoint_made", partition=partition, number=number, next_offset=next_offset)
        await publish_checkpoints(self._pool, self._producer, self._topic, partition)
        return self._owned().get(partition) == next_offset
