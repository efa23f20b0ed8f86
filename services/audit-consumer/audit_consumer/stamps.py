"""Has checkpoints of the log's trees stamped by a time-stamp authority (RFC 3161): they existed at that time.

An answer is kept if it grants what was asked: this checkpoint's hash, this nonce. Whether the authority's signature
holds is for those who trust the authority, with `openssl ts -verify`; a wrong one proves nothing, and costs nothing.
"""

import asyncio
from collections.abc import Callable, Mapping
from hashlib import sha256

import httpx
import structlog
from rfc3161_client import (
    HashAlgorithm,
    PKIStatus,
    TimestampRequestBuilder,
    TimeStampResponse,
    decode_timestamp_response,
)

from flotilla.audit.log_tiles import SignedTree, newest_tree
from flotilla.postgres import AWAY, Pool
from flotilla.runtime import Runtime
from flotilla.telemetry import metrics

MAX_STAMP_BYTES = 64 * 1024
_GRANTED = frozenset({PKIStatus.GRANTED, PKIStatus.GRANTED_WITH_MODS})
_NEWEST = "SELECT max(number) FROM audit.log_stamps WHERE kafka_partition = $1"
_KEEP = """
INSERT INTO audit.log_stamps (kafka_partition, number, response, stamped_at) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING
"""

log = structlog.get_logger(__name__)


class NotStamped(Exception):
    """The authority did not give a stamp for what was asked."""


class StampJob:
    """Has the newest checkpoints of the partitions that `owned` gives stamped, unless they are already."""

    def __init__(
        self, pool: Pool, http: httpx.AsyncClient, url: str, *, timeout_s: float, owned: Callable[[], Mapping[int, int]]
    ) -> None:
        self._pool = pool
        self._http = http
        self._url = url
        self._timeout_s = timeout_s
        self._owned = owned

    async def run(self, runtime: Runtime, interval_s: float) -> None:
        """Ask every `interval_s` until `runtime.stop` is set."""
        while not runtime.stop.is_set():
            await self.stamp_all()
            await runtime.sleep(interval_s)

    async def stamp_all(self) -> None:
        """One round over the owned partitions."""
        for partition in self._owned():
            try:
                await self._stamp(partition)
            except (NotStamped, httpx.HTTPError, TimeoutError, OSError, *AWAY) as error:
                metrics.AUDIT_STAMP_FAILURES.inc()
                log.warning("checkpoint_not_stamped", partition=partition, reason=str(error) or type(error).__name__)

    async def _stamp(self, partition: int) -> None:
        async with self._pool.acquire() as connection:
            tree = await newest_tree(connection, partition)
            newest = await connection.fetchval(_NEWEST, partition)
        if tree is None or tree.number == newest:
            return
        stamp = await self._ask(tree)
        raw, stamped_at = stamp.as_bytes(), stamp.tst_info.gen_time
        await self._pool.execute(_KEEP, partition, tree.number, raw, stamped_at)

    async def _ask(self, tree: SignedTree) -> TimeStampResponse:
        """The authority's stamp of the tree's signed note.

        Raises:
            NotStamped: it gave none, or one of something else.
        """
        request = TimestampRequestBuilder().data(tree.note).hash_algorithm(HashAlgorithm.SHA256).build()
        body = await self._post(request.as_bytes())
        try:
            stamp = decode_timestamp_response(body)
        except ValueError as error:
            raise NotStamped(f"its answer is not a valid time-stamp: {error}") from error
        if stamp.status not in _GRANTED:
            raise NotStamped(f"it refuses with status {stamp.status}: {stamp.status_string}")
        info = stamp.tst_info
        if info.message_imprint.message != sha256(tree.note).digest() or info.nonce != request.nonce:
            raise NotStamped("its stamp is of something else")
        return stamp

    async def _post(self, request: bytes) -> bytes:
        answer = b""
        headers = {"Content-Type": "application/timestamp-query"}
        sending = self._http.stream("POST", self._url, content=request, headers=headers)
        async with asyncio.timeout(self._timeout_s), sending as response:
            async for part in response.aiter_raw():
                answer += part
                if len(answer) > MAX_STAMP_BYTES:
                    raise NotStamped(f"its answer has more than {MAX_STAMP_BYTES} bytes")
        if response.status_code != httpx.codes.OK:
            raise NotStamped(f"it answers {response.status_code}")
        return answer
