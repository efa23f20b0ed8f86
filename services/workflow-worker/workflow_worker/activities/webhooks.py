"""Signed webhooks: tell other systems that something waits for a person.

Signed as Standard Webhooks 1.0.0 asks: headers `webhook-id`, `webhook-timestamp` and `webhook-signature`
(`v1,` + base64 of HMAC-SHA-256 over `id.timestamp.body`), so that receivers can use its libraries.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from temporalio import activity
from temporalio.exceptions import ApplicationError

from flotilla.contracts.ids import Clock, utc_now
from flotilla.contracts.names import join_id_parts
from flotilla.encryption import is_readable
from flotilla.encryption.tables import WEBHOOKS
from flotilla.postgres import Connection, Pool, open_row, seal_columns, tenant_transaction
from workflow_worker.activities.signatures.actions import DELIVER_WEBHOOK, ActionReference, WebhookDelivery
from workflow_worker.webhook_signatures import sign_webhook

_SELECT_WEBHOOK = "SELECT url, body, status FROM flotilla.webhook_deliveries WHERE tenant_id = $1 AND delivery_id = $2"
_INSERT_WEBHOOK = """
INSERT INTO flotilla.webhook_deliveries (tenant_id, delivery_id, approval_id, kind, url, body)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING
"""
# What came of one attempt.
_STORE_WEBHOOK_ATTEMPT = """
UPDATE flotilla.webhook_deliveries SET attempts = attempts + 1, last_status_code = $3, last_error = $4,
    status = CASE WHEN $5 THEN 'delivered' ELSE status END, delivered_at = CASE WHEN $5 THEN now() END
WHERE tenant_id = $1 AND delivery_id = $2 AND status = 'pending'
"""
_SUCCESS_STATUS_CODES = range(200, 300)


@dataclass(frozen=True, slots=True)
class WebhookReceivers:
    """Where webhooks go, and what signs them."""

    urls: tuple[str, ...]
    secret: bytes


async def queue_webhooks(
    connection: Connection, key: ActionReference, kind: str, urls: Sequence[str], body: bytes
) -> list[str]:
    """Add a delivery per receiver, in the caller's transaction; give their ids, the same ones when repeated."""
    ids = []
    for url in urls:
        seed = join_id_parts(key.tenant_id, key.action_id, kind, url).encode()
        delivery_id = f"msg_{hashlib.sha256(seed).hexdigest()[:32]}"
        stored = await seal_columns(connection, key.tenant_id, key.session_id, WEBHOOKS, delivery_id, body=body)
        await connection.execute(_INSERT_WEBHOOK, key.tenant_id, delivery_id, key.action_id, kind, url, stored["body"])
        ids.append(delivery_id)
    return ids


class WebhookActivities:
    """Delivers what was queued."""

    def __init__(
        self, pool: Pool, http: httpx.AsyncClient, receivers: WebhookReceivers, clock: Clock = utc_now
    ) -> None:
        self._pool = pool
        self._http = http
        self._receivers = receivers
        self._clock = clock

    @activity.defn(name=DELIVER_WEBHOOK)
    async def deliver_webhook(self, delivery: WebhookDelivery) -> None:
        """One attempt. Delivery is at least once; receivers tell repetitions by `webhook-id`.

        Raises:
            ApplicationError: `WebhookRefused` (4xx, not retried) or `WebhookFailed` (retried).
        """
        tenant_id, delivery_id = delivery.key.tenant_id, delivery.delivery_id
        async with tenant_transaction(self._pool, tenant_id) as connection:
            found = await connection.fetchrow(_SELECT_WEBHOOK, tenant_id, delivery_id)
            named = found and {**found, "delivery_id": delivery_id, "session_id": delivery.key.session_id}
            row = named and await open_row(connection, tenant_id, WEBHOOKS, named)
        if row is None or row["status"] != "pending":
            return
        if not is_readable(row["body"]):
            raise _webhook_error(
                httpx.codes.GONE, f"webhook {delivery_id} is not sent: its text is {row['body'].decode()}"
            )
        code, error = await self._post_webhook(row["url"], delivery_id, row["body"])
        delivered = code in _SUCCESS_STATUS_CODES
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await connection.execute(_STORE_WEBHOOK_ATTEMPT, tenant_id, delivery_id, code, error, delivered)
        if not delivered:
            raise _webhook_error(code, f"webhook {delivery_id}: {error or f'the receiver answered {code}'}")

    async def _post_webhook(self, url: str, delivery_id: str, body: bytes) -> tuple[int | None, str | None]:
        timestamp = int(self._clock().timestamp())
        headers = {
            "content-type": "application/json",
            "webhook-id": delivery_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign_webhook(self._receivers.secret, delivery_id, timestamp, body),
        }
        try:
            answer = await self._http.post(url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return None, f"{type(error).__name__}: {error}"
        return (
            answer.status_code,
            None if answer.status_code in _SUCCESS_STATUS_CODES else f"status {answer.status_code}",
        )


def _webhook_error(code: int | None, message: str) -> ApplicationError:
    final = code is not None and httpx.codes.is_client_error(code) and code not in (408, 429)
    return ApplicationError(message, type="WebhookRefused" if final else "WebhookFailed", non_retryable=final)
