"""Has checkpoints of the log's trees stamped by a time-stamp authority (RFC 3161): they existed at that time.

An answer is kept if it is granted, and of this checkpoint's hash and this nonce. Whether the authority's signature
holds is for those who trust the authority, with `openssl ts -verify`; a wrong one proves nothing, and costs nothing.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

import httpx
import structlog
from rfc3161_client import (
    HashAlgorithm,
    PKIStatus,
    TimestampRequestBuilder,
    decode_timestamp_response,
)

from flotilla.audit.log_tiles import SignedTree, load_newest_tree
from flotilla.postgres import AWAY, Pool
from flotilla.runtime import Runtime
from flotilla.telemetry import metrics

MAX_STAMP_BYTES = 64 * 1024
_GRANTED_STATUSES = frozenset({PKIStatus.GRANTED, PKIStatus.GRANTED_WITH_MODS})
_SELECT_NEWEST_STAMP = "SELECT max(number) FROM audit.log_stamps WHERE kafka_partition = $1"
_INSERT_STAMP = """
INSERT INTO audit.log_stamps (kafka_partition, number, response, stamped_at) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING
"""

log = structlog.get_logger(__name__)


class StampingFailed(Exception):
    """The authority did not stamp what it was asked to."""


@dataclass(frozen=True, slots=True)
class _TimeStamp:
    """A stamp that grants what was asked."""

    response: bytes
    """The authority's answer, DER."""
    stamped_at: datetime


class StampJob:
    """Has the newest checkpoints of the partitions that `owned` returns stamped, unless they are already."""

    def __init__(
        self, pool: Pool, http: httpx.AsyncClient, url: str, *, timeout_s: float, owned: Callable[[], Mapping[int, int]]
    ) -> None:
        self._pool = pool
        self._http = http
        self._url = url
        self._timeout_s = timeout_s
        self._owned = owned

    async def stamp_until_stopped(self, runtime: Runtime, interval_s: float) -> None:
        """Ask every `interval_s` until `runtime.stop` is set."""
        while not runtime.stop.is_set():
            await self.stamp_all_partitions()
            await runtime.sleep(interval_s)

    async def stamp_all_partitions(self) -> None:
        """One round over the owned partitions."""
        for partition in self._owned():
            try:
                await self._stamp_partition(partition)
            except (StampingFailed, httpx.HTTPError, TimeoutError, *AWAY) as error:
                metrics.AUDIT_STAMP_FAILURES.inc()
                log.warning("checkpoint_not_stamped", partition=partition, reason=str(error) or type(error).__name__)

    async def _stamp_partition(self, partition: int) -> None:
        async with self._pool.acquire() as connection:
            tree = await load_newest_tree(connection, partition)
            newest = await connection.fetchval(_SELECT_NEWEST_STAMP, partition)
        if tree is None or tree.number == newest:
            return
        stamp = await self._request_stamp(tree)
        await self._pool.execute(_INSERT_STAMP, partition, tree.number, stamp.response, stamp.stamped_at)

    async def _request_stamp(self, tree: SignedTree) -> _TimeStamp:
        """The authority's stamp of the tree's signed note.

        Raises:
            StampingFailed: it made none, or one of something else.
        """
        request = TimestampRequestBuilder().data(tree.note).hash_algorithm(HashAlgorithm.SHA256).build()
        body = await self._post_stamp_request(request.as_bytes())
        try:
            stamp = decode_timestamp_response(body)
            if stamp.status not in _GRANTED_STATUSES:
                raise StampingFailed(f"it refuses with status {stamp.status}: {stamp.status_string}")
            info = stamp.tst_info  # only now it is parsed
            is_of_tree = info.message_imprint.message == sha256(tree.note).digest()
            if not is_of_tree or info.nonce != request.nonce:
                raise StampingFailed("its stamp is of something else")
            return _TimeStamp(stamp.as_bytes(), info.gen_time)
        except ValueError as error:
            raise StampingFailed(f"its answer is not a valid time-stamp: {error}") from error

    async def _post_stamp_request(self, request: bytes) -> bytes:
        answer = b""
        headers = {"Content-Type": "application/timestamp-query"}
        sending = self._http.stream("POST", self._url, content=request, headers=headers)
        async with asyncio.timeout(self._timeout_s), sending as response:
            async for part in response.aiter_raw():
                answer += part
                if len(answer) > MAX_STAMP_BYTES:
                    raise StampingFailed(f"its answer has more than {MAX_STAMP_BYTES} bytes")
        if response.status_code != httpx.codes.OK:
            raise StampingFailed(f"it answers {response.status_code}")
        return answer
