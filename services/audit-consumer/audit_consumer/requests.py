"""Does what people asked of the audit consumer: places parked events again, sets conflicts aside, rebuilds."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine

import asyncpg
import structlog

from audit_consumer.archiving import archive_sessions, restore_session
from audit_consumer.decisions import PublishSessionEvents, accept_parked_history, reject_parked_history
from audit_consumer.losses import WouldLoseEvents
from audit_consumer.projection import Projection
from audit_consumer.projection_rows import SessionKey
from audit_consumer.rebuild import RebuildTerms, drop_kept_projection
from audit_consumer.rewinds import HistoryDecision
from audit_consumer.snapshotting import write_due_snapshots
from flotilla.audit.requests import NO_SESSION
from flotilla.contracts.errors import Conflict, FlotillaError
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.values import to_storable
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import AWAY, Pool
from flotilla.postgres.locks import try_advisory_lock
from flotilla.runtime import Runtime
from flotilla.telemetry import metrics

_REQUESTS_LOCK_KEY = 0x61756469  # "audi"
"""One audit consumer at a time sees to requests."""
_REQUESTS_POLL_INTERVAL_S = 1.0

_SELECT_NEXT_REQUEST = """
SELECT * FROM audit.requests WHERE finished_at IS NULL AND (confirmed_at IS NOT NULL OR NOT needs_confirmation)
ORDER BY created_at LIMIT 1
"""
# What nobody else agreed to in a day was agreed to by nobody.
_EXPIRE_UNCONFIRMED_REQUESTS = """
UPDATE audit.requests SET finished_at = now(),
    outcome = '{"ok": false, "error": "no second person confirmed it within 24 hours: ask for it again"}'
WHERE finished_at IS NULL AND needs_confirmation AND confirmed_at IS NULL AND created_at < now() - interval '24 hours'
"""
_STORE_REQUEST_PROGRESS = "UPDATE audit.requests SET progress = $3::jsonb WHERE tenant_id = $1 AND request_id = $2"
_MARK_REQUEST_STARTED = "UPDATE audit.requests SET started_at = now() WHERE tenant_id = $1 AND request_id = $2"
_FINISH_REQUEST = """
UPDATE audit.requests SET finished_at = now(), outcome = $3::jsonb WHERE tenant_id = $1 AND request_id = $2
"""
_DISCARD_PARKED = """
UPDATE parked_events SET reason = 'discarded', detail = $3
WHERE tenant_id = $1 AND session_id = $2 AND reason IN ('conflict', 'forbidden')
"""
_DISCARD_UNDECODABLE = """
UPDATE parked_events SET reason = 'discarded', detail = $2
WHERE tenant_id = $1 AND session_id IS NULL AND reason = 'undecodable'
"""
_COUNT_PARKED = """
SELECT count(DISTINCT (tenant_id, session_id)) FILTER (WHERE reason <> 'undecodable') AS sessions,
    count(*) FILTER (WHERE reason = 'undecodable') AS undecodable,
    count(*) FILTER (WHERE reason = 'forbidden') AS forbidden
FROM parked_events WHERE reason <> 'discarded'
"""
# Sessions that wait for a type which this version may know by now.
_SELECT_PARKED_UNKNOWN_TYPES = """
SELECT DISTINCT tenant_id, session_id FROM parked_events WHERE reason = 'unknown_type' AND kafka_partition = ANY($1)
"""

log = structlog.get_logger(__name__)


class AuditRequestLoop:
    """The loop over `audit.requests`.

    `rebuild` makes a new projection as ordered and returns its outcome; `publish` puts events into Kafka.
    """

    def __init__(
        self, pool: Pool, rebuild: Callable[[RebuildTerms], Awaitable[JsonObject]], publish: PublishSessionEvents
    ) -> None:
        self._pool = pool
        self._publish = publish
        self._projection = Projection(pool)
        self._rebuild = rebuild

    async def serve_until_stopped(self, runtime: Runtime) -> None:
        """Look for requests until `runtime.stop` is set."""
        while not runtime.stop.is_set():
            try:
                async with try_advisory_lock(self._pool, _REQUESTS_LOCK_KEY) as leads:
                    while leads and await _run_unless_stopped(runtime, self._serve_next_request()):
                        pass
                await self._report_parked_counts()
            except (*AWAY, TimeoutError) as error:
                log.warning("audit_requests_postponed", reason=str(error) or type(error).__name__)
            await runtime.sleep(_REQUESTS_POLL_INTERVAL_S)

    async def _report_parked_counts(self) -> None:
        for sessions, undecodable, forbidden in await self._pool.fetch(_COUNT_PARKED):
            metrics.AUDIT_PARKED.set(sessions)
            metrics.AUDIT_UNDECODABLE.set(undecodable)
            metrics.AUDIT_FORBIDDEN.set(forbidden)

    async def _serve_next_request(self) -> bool:
        await self._pool.execute(_EXPIRE_UNCONFIRMED_REQUESTS)
        request = await self._pool.fetchrow(_SELECT_NEXT_REQUEST)
        if request is None:
            return False
        key = (request["tenant_id"], request["request_id"])
        await self._pool.execute(_MARK_REQUEST_STARTED, *key)
        try:
            outcome = {"ok": True, **await self._carry_out_request(request)}
        except WouldLoseEvents as error:
            outcome = {"ok": False, "error": str(error), "losses": error.listed()}
        except FlotillaError as error:
            outcome = {"ok": False, "error": str(error)}
        except (*AWAY, TimeoutError):
            raise
        except Exception as error:
            # It would fail again, and keep those behind it waiting: its maker gets the reason.
            log.exception("request_failed", request=request["request_id"], kind=request["kind"])
            outcome = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        await self._pool.execute(_FINISH_REQUEST, *key, json.dumps(to_storable(outcome).value))
        log.info("request_served", request=request["request_id"], kind=request["kind"], outcome=outcome)
        return True

    async def _carry_out_request(self, request: asyncpg.Record) -> JsonObject:
        session = (request["tenant_id"], request["session_id"])
        if request["kind"] == "rebuild":
            return await self._rebuild(self._rebuild_terms_of(request))
        if request["kind"] == "drop_kept":
            return await drop_kept_projection(self._pool, is_confirmed=_is_confirmed_by_second_person(request))
        if request["kind"] == "archive":
            return await archive_sessions(self._pool, request["tenant_id"], request["request_id"])
        if request["kind"] == "restore":
            return await restore_session(self._pool, session)
        return await self._carry_out_history_decision(request, session)

    async def _carry_out_history_decision(self, request: asyncpg.Record, session: SessionKey) -> JsonObject:
        decision = HistoryDecision(
            session=session,
            request_id=request["request_id"],
            by=request["requested_by"],
            reason=request["reason"] or "",
            asked_at=request["created_at"],
        )
        if request["session_id"] == NO_SESSION:
            status = await self._pool.execute(_DISCARD_UNDECODABLE, request["tenant_id"], str(decision))
            return {"set_aside": int(status.split()[-1]), "still_parked": False}
        if request["kind"] == "accept":
            return await accept_parked_history(self._pool, self._projection, self._publish, decision)
        if request["kind"] == "reject":
            return await reject_parked_history(self._pool, self._projection, decision)
        if request["kind"] == "discard":
            await self._pool.execute(_DISCARD_PARKED, *session, str(decision))
        return await retry_parked_session(self._pool, self._projection, session)

    def _rebuild_terms_of(self, request: asyncpg.Record) -> RebuildTerms:
        key = (request["tenant_id"], request["request_id"])
        accepted = json.loads(request["accept_loss"] or "[]")
        if accepted and not _is_confirmed_by_second_person(request):
            raise Conflict("it accepts losses, and no second person confirmed it: ask for it again")

        async def report(progress: JsonObject) -> None:
            await self._pool.execute(_STORE_REQUEST_PROGRESS, *key, json.dumps(progress))

        return RebuildTerms(
            request_id=request["request_id"],
            accepted={
                f"{loss['tenant_id']}/{loss['session_id'] or '-'}": (loss["lost"], loss["replaced"])
                for loss in accepted
            },
            by=f"{request['requested_by']} and {request['confirmed_by']}" if accepted else request["requested_by"],
            reason=request["reason"] or "",
            report=report,
        )


def _is_confirmed_by_second_person(request: asyncpg.Record) -> bool:
    """Whether a second person agreed. Whether one has to is decided here: the row may say anything."""
    return request["confirmed_by"] not in (None, request["requested_by"])


async def _run_unless_stopped(runtime: Runtime, work: Coroutine[None, None, bool]) -> bool:
    """The result of `work`; False when asked to stop first. What was begun is then left to the next consumer."""
    serving, stopping = asyncio.create_task(work), asyncio.create_task(runtime.stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in (serving, stopping):
        task.cancel()
    served, _ = await asyncio.gather(serving, stopping, return_exceptions=True)
    if isinstance(served, asyncio.CancelledError):
        return False
    if isinstance(served, BaseException):
        raise served
    return served


async def retry_parked_session(pool: Pool, projection: Projection, session: SessionKey) -> JsonObject:
    """Place the session's parked events again; say how many came in and whether some still wait."""
    outcome = await projection.place_parked_again(lane_of_session(*session), session)
    await write_due_snapshots(pool, outcome.snapshots_due)
    return {"projected": len(outcome.appended), "still_parked": bool(outcome.parked_sessions)}


async def retry_formerly_unknown_types(pool: Pool, partitions: list[int]) -> None:
    """Place the events again whose type this version knows and the one before did not."""
    projection = Projection(pool)
    for row in await pool.fetch(_SELECT_PARKED_UNKNOWN_TYPES, partitions):
        await retry_parked_session(pool, projection, (row["tenant_id"], row["session_id"]))
