"""Asks witnesses to cosign the checkpoints of the log's trees: https://c2sp.org/tlog-witness, `add-checkpoint`.

A witness signs a checkpoint only if its tree begins with the one that it signed before. Nothing waits for witnesses:
one that is away is asked again in the next round, and the age of the newest cosigned checkpoint says how long it takes.
"""

import asyncio
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import httpx
import structlog

from flotilla.audit.log_tiles import SignedTree, load_consistency_proof, load_newest_tree
from flotilla.audit.notes import (
    WITNESS_KEY,
    NoteKey,
    NoteSignature,
    SignedNote,
    decode_note,
    decode_signature_lines,
    parse_note_key,
)
from flotilla.contracts.errors import ConfigurationError
from flotilla.postgres import AWAY, Pool
from flotilla.runtime import Runtime
from flotilla.telemetry import metrics

MAX_ANSWER_BYTES = 16 * 1024
_STATUS_CONFLICT = 409

_INSERT_COSIGNATURE = """
INSERT INTO audit.log_cosignatures (kafka_partition, number, witness, line) VALUES ($1, $2, $3, $4)
ON CONFLICT (kafka_partition, number, witness) DO UPDATE SET line = excluded.line, received_at = now()
"""
# Where a checkpoint has as many cosignatures as are needed, those of earlier ones prove nothing more.
_DELETE_EARLIER_COSIGNATURES = "DELETE FROM audit.log_cosignatures WHERE kafka_partition = $1 AND number < $2"

log = structlog.get_logger(__name__)


class Refused(Exception):
    """A witness did not sign; the reason is one word for the metric."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class LogWitness:
    """Who is asked, and where."""

    key: NoteKey
    url: str


def parse_witnesses(words: Sequence[str]) -> list[LogWitness]:
    """Read witnesses as settings have them: a URL with the key as its fragment.

    Raises:
        ConfigurationError: one is not that, or is named twice.
    """
    witnesses = [_parse_witness(word) for word in words]
    if len({witness.key.public_key_bytes for witness in witnesses}) < len(witnesses):
        raise ConfigurationError("FLOTILLA_AUDIT_WITNESSES names a witness's key twice: each counts once")
    return witnesses


def _parse_witness(word: str) -> LogWitness:
    url, _, key = word.partition("#")
    witness = LogWitness(parse_note_key(key), url.rstrip("/"))
    if witness.key.kind != WITNESS_KEY or not witness.url.startswith(("https://", "http://")):
        raise ConfigurationError(
            f"FLOTILLA_AUDIT_WITNESSES: {word[:200]!r} is not a witness's URL and key, as `https://HOST#NAME+ID+KEY`"
        )
    return witness


class WitnessJob:
    """Has the newest checkpoints of the partitions that `owned` returns cosigned."""

    def __init__(
        self,
        pool: Pool,
        http: httpx.AsyncClient,
        witnesses: Sequence[LogWitness],
        quorum: int,
        *,
        timeout_s: float,
        owned: Callable[[], Mapping[int, int]],
    ) -> None:
        self._pool = pool
        self._http = http
        self._witnesses = witnesses
        self._quorum = quorum
        self._timeout_s = timeout_s
        self._owned = owned
        self._sizes: dict[tuple[int, str], int] = {}
        """By partition and witness, the size that it signed last, as far as this process knows."""
        self._current_at: dict[int, float] = {}
        """By partition, when everything that was signed was cosigned by enough, by the monotonic clock."""

    async def ask_until_stopped(self, runtime: Runtime, interval_s: float) -> None:
        """Ask every `interval_s` until `runtime.stop` is set."""
        while not runtime.stop.is_set():
            await self.ask_all_witnesses()
            await runtime.sleep(interval_s)

    async def ask_all_witnesses(self) -> None:
        """One round over the owned partitions and all witnesses."""
        owned = self._owned()
        for gone in self._current_at.keys() - owned.keys():
            metrics.AUDIT_COSIGNED_AGE.remove(str(gone))
            del self._current_at[gone]
        for partition in owned:
            if partition not in self._current_at:
                self._current_at[partition] = time.monotonic()
                metrics.AUDIT_COSIGNED_AGE.labels(str(partition)).set_function(
                    partial(self._newest_cosigned_age_s, partition)
                )
            try:
                await self._ask_witnesses_about_partition(partition)
            except (*AWAY, TimeoutError, ValueError) as error:  # ValueError: a tile or note in PostgreSQL was changed
                log.warning("witnesses_wait", partition=partition, reason=str(error) or type(error).__name__)

    def _newest_cosigned_age_s(self, partition: int) -> float:
        return time.monotonic() - self._current_at[partition]

    async def _ask_witnesses_about_partition(self, partition: int) -> None:
        started = time.monotonic()
        async with self._pool.acquire() as connection:
            tree = await load_newest_tree(connection, partition)
        if tree is None or not tree.size:
            self._current_at[partition] = started
            return
        signed = await asyncio.gather(*(self._request_cosignature(tree, witness) for witness in self._witnesses))
        async with self._pool.acquire() as connection, connection.transaction():
            for witness, signature in zip(self._witnesses, signed, strict=True):
                if signature is not None:
                    await connection.execute(
                        _INSERT_COSIGNATURE, partition, tree.number, witness.key.to_text(), signature.to_line()
                    )
            if sum(signature is not None for signature in signed) >= self._quorum:
                await connection.execute(_DELETE_EARLIER_COSIGNATURES, partition, tree.number)
                self._current_at[partition] = started

    async def _request_cosignature(self, tree: SignedTree, witness: LogWitness) -> NoteSignature | None:
        place = (tree.partition, witness.key.name)
        try:
            signature = await self._add_checkpoint(tree, witness, self._sizes.get(place, 0))
        except (Refused, httpx.HTTPError, TimeoutError, *AWAY) as error:
            reason = error.reason if isinstance(error, Refused) else "away"
            metrics.AUDIT_WITNESS_FAILURES.labels(witness.key.name, reason).inc()
            level = log.warning if reason == "away" else log.error
            detail = str(error) or type(error).__name__
            level("checkpoint_not_cosigned", witness=witness.key.name, partition=tree.partition, reason=detail)
            return None
        self._sizes[place] = tree.size
        return signature

    async def _add_checkpoint(
        self, tree: SignedTree, witness: LogWitness, old: int, *, may_ask_again: bool = True
    ) -> NoteSignature:
        """The witness's signature of the tree.

        Raises:
            Refused: it does not sign, or what it signed does not hold.
        """
        status, body = await self._post_to_witness(witness, await self._build_add_checkpoint_request(tree, old))
        if status == _STATUS_CONFLICT and may_ask_again:
            seen = _tree_size_in(body)
            if seen > tree.size:
                raise Refused(
                    "ahead", f"it has signed a tree of {seen} entries, ours has {tree.size}: ours was cut, or forged"
                )
            return await self._add_checkpoint(tree, witness, seen, may_ask_again=False)
        if status != httpx.codes.OK:
            raise Refused("refused", f"it answers {status}: {body[:200].decode(errors='replace')}")
        return _valid_signature_in(body, witness.key, decode_note(tree.note))

    async def _build_add_checkpoint_request(self, tree: SignedTree, old: int) -> bytes:
        async with self._pool.acquire() as connection:
            path = await load_consistency_proof(connection, tree.partition, old, tree.size)
        proof = "".join(f"{b64encode(node).decode()}\n" for node in path)
        return f"old {old}\n{proof}\n".encode() + tree.note

    async def _post_to_witness(self, witness: LogWitness, body: bytes) -> tuple[int, bytes]:
        answer = b""
        sending = self._http.stream("POST", f"{witness.url}/add-checkpoint", content=body)
        async with asyncio.timeout(self._timeout_s), sending as response:
            async for part in response.aiter_raw():
                answer += part
                if len(answer) > MAX_ANSWER_BYTES:
                    raise Refused("refused", f"its answer has more than {MAX_ANSWER_BYTES} bytes")
        return response.status_code, answer


def _tree_size_in(body: bytes) -> int:
    text = body.decode(errors="replace").strip()
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(2**63)):
        raise Refused("refused", f"it answers 409 without a size: {text[:200]!r}")
    return int(text)


def _valid_signature_in(body: bytes, key: NoteKey, note: SignedNote) -> NoteSignature:
    try:
        signature = key.valid_signature_of(SignedNote(note.text, decode_signature_lines(body.decode())))
    except ValueError as error:
        raise Refused("refused", f"it answers what is no signature: {error}") from error
    if signature is None:
        raise Refused("refused", "its signature does not hold under this checkpoint with the key that is known of it")
    return signature
