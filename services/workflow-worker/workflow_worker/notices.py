"""Notices of runs: queued in the transaction of what they tell, delivered by the leader, in order for each run."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import structlog

from flotilla.config.hosts import parse_allowed_url
from flotilla.contracts.a2a import TOKEN_HEADER, task_state
from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import FlotillaError, NotFound
from flotilla.contracts.ids import Clock, new_id, utc_now
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.notices import NoticeKind, Notify
from flotilla.encryption import ERASED, is_readable, sealed_columns
from flotilla.encryption.tables import NOTICES, RUNS
from flotilla.postgres import AWAY, Connection, Pool, open_row, open_stored_row, tenant_transaction, writing_cipher
from flotilla.runtime.stopping import sleep_or_stop
from workflow_worker.webhook_signatures import decode_webhook_secret, sign_webhook

NOTIFY_HOSTS_SETTING = "FLOTILLA_NOTIFY_HOSTS"
MAX_NOTICES_AT_ONCE = 50
MAX_NOTICES_PER_RECEIVER = 4
NOTICE_LEASE = timedelta(seconds=60)
"""Longer than one attempt takes; how long a notice waits whose worker died in the middle."""
MAX_NOTICE_RETRY_WAIT_S = 300.0
NOTICE_GIVE_UP_AFTER = timedelta(days=3)
NOTICE_POLL_INTERVAL_S = 0.5
MAX_NOTICE_ERROR_CHARS = 500
_TAKE_NOTICES = "SELECT * FROM flotilla.take_run_notices($1, $2, $3, $4)"
_SELECT_RUN_AND_RECEIVER = """
SELECT coalesce(r.notify, t.notify) AS notify, r.run_id, r.session_id, r.workflow, r.user_id, r.metadata, r.status,
    r.error,
    EXISTS (SELECT FROM flotilla.approvals AS a
            WHERE a.tenant_id = $1 AND a.run_id = $2 AND a.status = 'pending') AS decisions,
    EXISTS (SELECT FROM flotilla.questions AS q
            WHERE q.tenant_id = $1 AND q.run_id = $2 AND q.status = 'open') AS questions
FROM flotilla.runs AS r LEFT JOIN flotilla.tenant_notify AS t ON t.tenant_id = r.tenant_id
WHERE r.tenant_id = $1 AND r.run_id = $2 AND r.request #>> '{replay,of_run}' IS NULL
"""
# The caller holds the run's row lock, so that nobody else counts.
_INSERT_NOTICE = """
INSERT INTO flotilla.run_notices (tenant_id, run_id, number, delivery_id, kind, url, secret_ref, body, token)
SELECT $1, $2, 1 + count(*), $3, $4, $5, $6, $7, $8 FROM flotilla.run_notices WHERE tenant_id = $1 AND run_id = $2
"""
_SELECT_A2A_RECEIVER = (
    "SELECT url, token, secret_ref FROM flotilla.a2a_receivers WHERE tenant_id = $1 AND run_id = $2 ORDER BY config_id"
)
_STORE_NOTICE_ATTEMPT = """
UPDATE flotilla.run_notices SET attempts = attempts + 1, last_status_code = $4, last_error = $5, status = $6,
    due_at = now() + $7, delivered_at = CASE WHEN $6 = 'delivered' THEN now() END
WHERE tenant_id = $1 AND run_id = $2 AND number = $3 AND status = 'pending'
"""
log = structlog.get_logger(__name__)


async def queue_run_notice(
    connection: Connection, tenant_id: str, run_id: str, kind: NoticeKind, about: JsonObject | None = None
) -> None:
    """Queue a notice of the run as it is now, and of `about`, in the caller's transaction, if anybody wants one."""
    run = await connection.fetchrow(_SELECT_RUN_AND_RECEIVER, tenant_id, run_id)
    if run is None:
        return
    now = utc_now()

    async def add(url: str, secret_ref: str, document: JsonObject, token: str = "") -> None:
        delivery_id = f"msg_{new_id()}"
        body = to_json(document)
        cipher = await writing_cipher(connection, tenant_id, run["session_id"])
        if cipher is not None and not cipher.is_erased:  # of an erased session it says no more than its row
            body = sealed_columns(cipher, NOTICES, delivery_id, {"body": body})["body"]
        await connection.execute(_INSERT_NOTICE, tenant_id, run_id, delivery_id, kind, url, secret_ref, body, token)

    if run["notify"] is not None:
        receiver = from_json(run["notify"], Notify)
        opened = await open_row(connection, tenant_id, RUNS, run)
        data: JsonObject = {**_notice_content(run_id, opened), **(about or {})}
        document: JsonObject = {"type": kind, "timestamp": now.isoformat(), "data": data}
        await add(receiver.url, receiver.secret_ref, document)
    if kind == "run.question_asked" and run["status"] != "interrupted":
        return  # the task's state follows with `run.interrupted`
    for row in await connection.fetch(_SELECT_A2A_RECEIVER, tenant_id, run_id):
        await add(row["url"], row["secret_ref"], _a2a_status_update(run_id, run, now), row["token"])


def _a2a_status_update(run_id: str, run: asyncpg.Record, now: datetime) -> JsonObject:
    """The run's status as A2A 1.0 sends it to receivers: a `StreamResponse`."""
    timestamp = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    state = task_state(run["status"], decisions=run["decisions"], questions=run["questions"])
    status: JsonObject = {"state": state, "timestamp": timestamp}
    return {"statusUpdate": {"taskId": run_id, "contextId": run["session_id"], "status": status}}


def _notice_content(run_id: str, run: Mapping[str, Any]) -> JsonObject:
    """What receivers are notified: enough to look further, nothing of what was said."""
    about: dict[str, object] = {name: run[name] for name in ("session_id", "workflow", "user_id", "status")}
    whole = from_json(run["error"], dict) if run["error"] else None
    error = {name: whole.get(name) for name in ("type", "message")} if whole else None
    return {"run_id": run_id, **about, "metadata": from_json(run["metadata"], dict), "error": error}  # type: ignore[dict-item]


@dataclass(frozen=True, slots=True)
class NoticeReceivers:
    """Which hosts may get notices, and where the secrets are: files called `TENANT.REF`."""

    hosts: tuple[str, ...]
    secrets: Path | None

    def read_signing_secret(self, tenant_id: str, ref: str) -> bytes:
        """Return the secret that signs.

        Raises:
            NotFound: there is none of that name for the tenant.
        """
        path = self.secrets / f"{tenant_id}.{ref}" if self.secrets else None
        with suppress(OSError):
            if path is not None and path.parent == self.secrets:
                return decode_webhook_secret(path.read_text().strip())
        raise NotFound(f"no secret {ref}: put it into FLOTILLA_NOTIFY_SECRETS as file {tenant_id}.{ref}")


class NoticeDelivery:
    """Delivers what is due, many at once, until the leader's term is over."""

    def __init__(self, pool: Pool, http: httpx.AsyncClient, receivers: NoticeReceivers, clock: Clock = utc_now) -> None:
        self._pool = pool
        self._http = http
        self._receivers = receivers
        self._clock = clock
        self._under_way: dict[asyncio.Task[None], str] = {}
        """Deliveries, and where each goes."""

    async def deliver_until(self, over: asyncio.Event) -> None:
        """Take and deliver until `over`; what is cut off then is taken again later."""
        try:
            while not over.is_set():
                await self._take_due_notices()
                await sleep_or_stop(over, NOTICE_POLL_INTERVAL_S)
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _take_due_notices(self) -> None:
        free = MAX_NOTICES_AT_ONCE - len(self._under_way)
        # A receiver that is slow has its share of what is under way, and no more.
        busy = [url for url, count in Counter(self._under_way.values()).items() if count >= MAX_NOTICES_PER_RECEIVER]
        try:
            rows = (
                await self._pool.fetch(_TAKE_NOTICES, free, MAX_NOTICES_PER_RECEIVER, NOTICE_LEASE, busy)
                if free
                else []
            )
        except (*AWAY, asyncpg.PostgresError, TimeoutError) as error:
            log.warning("notices_not_taken", error=str(error) or type(error).__name__)
            return
        for row in rows:
            task = asyncio.create_task(self._deliver_notice(row), name=f"notice {row['delivery_id']}")
            self._under_way[task] = row["url"]
            task.add_done_callback(self._under_way.pop)

    async def _deliver_notice(self, row: asyncpg.Record) -> None:
        code, error = await self._attempt_delivery(row)
        status, wait = self._status_after_attempt(row, code, error)
        if error:
            log.warning("notice_not_delivered", run_id=row["run_id"], delivery_id=row["delivery_id"], error=error)
        try:
            async with tenant_transaction(self._pool, row["tenant_id"]) as connection:
                key = (row["tenant_id"], row["run_id"], row["number"])
                await connection.execute(_STORE_NOTICE_ATTEMPT, *key, code, error, status, wait)
        except (*AWAY, asyncpg.PostgresError, TimeoutError) as away:
            log.warning("notice_not_noted", delivery_id=row["delivery_id"], error=str(away) or type(away).__name__)

    async def _attempt_delivery(self, taken: asyncpg.Record) -> tuple[int | None, str | None]:
        """One attempt: the receiver's answer, and what is wrong with it."""
        timestamp = int(self._clock().timestamp())
        try:
            row = await open_stored_row(self._pool, taken["tenant_id"], NOTICES, taken)
            if not is_readable(row["body"]):
                text = row["body"].decode()
                return httpx.codes.GONE if text == ERASED else None, f"nothing is sent: its text is {text}"
            url = parse_allowed_url(row["url"], self._receivers.hosts, NOTIFY_HOSTS_SETTING)
            secret = self._receivers.read_signing_secret(row["tenant_id"], row["secret_ref"])
            headers = {
                "content-type": "application/json",
                "webhook-id": row["delivery_id"],
                "webhook-timestamp": str(timestamp),
                "webhook-signature": sign_webhook(secret, row["delivery_id"], timestamp, row["body"]),
                **({TOKEN_HEADER: row["token"]} if row["token"] else {}),
            }
            async with asyncio.timeout(NOTICE_LEASE.total_seconds() / 2):
                # Of the answer only its status matters: it is not read, however long it is.
                async with self._http.stream("POST", url, content=row["body"], headers=headers) as answer:
                    code = answer.status_code
        except (httpx.HTTPError, FlotillaError, TimeoutError, ValueError, *AWAY) as error:
            return None, f"{type(error).__name__}: {error}"[:MAX_NOTICE_ERROR_CHARS]
        return code, None if httpx.codes.is_success(code) else f"the receiver answered {code}"

    def _status_after_attempt(self, row: asyncpg.Record, code: int | None, error: str | None) -> tuple[str, timedelta]:
        """The notice's status, and when it is tried again: after seconds at first, then every five minutes."""
        if error is None:
            return "delivered", timedelta()
        too_old = datetime.now(UTC) - row["created_at"] > NOTICE_GIVE_UP_AFTER
        if too_old or code == httpx.codes.GONE:
            return "failed", timedelta()
        return "pending", timedelta(seconds=min(2.0 ** min(row["attempts"], 10), MAX_NOTICE_RETRY_WAIT_S))
