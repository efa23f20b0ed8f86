"""Signatures of webhooks, as Standard Webhooks 1.0.0 has them."""

import base64
import hashlib
import hmac

_SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix that Standard Webhooks gives secrets


def decode_webhook_secret(secret: str) -> bytes:
    """The key behind a secret; `whsec_` marks base64, as Standard Webhooks writes it."""
    if secret.startswith(_SECRET_PREFIX):
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    return secret.encode()


def sign_webhook(secret: bytes, delivery_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    signed = b".".join((delivery_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
