"""The part of the worker that publishes dead letters again."""

from contextlib import AbstractAsyncContextManager

from flotilla.bus import Consumer, Redis
from flotilla.contracts.names import BRIDGE_GROUP, REDRIVES_STREAM
from flotilla.postgres import Pool
from tests.support.consumers import consuming
from tests.support.tickets import SIGNER
from workflow_worker.redrives import RedriveHandler


def redriving(redis: Redis, pool: Pool) -> AbstractAsyncContextManager[Consumer]:
    """Answers requests on `flotilla.redrives` as long as the block."""
    handler = RedriveHandler(pool, redis, SIGNER).handle_redrive
    return consuming(redis, REDRIVES_STREAM, handler, group=BRIDGE_GROUP, name="worker")
