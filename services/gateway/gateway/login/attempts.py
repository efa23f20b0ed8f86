"""Logins on their way through the OpenID provider: in Redis for ten minutes, each good for one return.

The address that the browser comes back to holds `state`; a cookie of the browser that set out proves that it is the
same one. Redis holds the hashes of both. If it is lost, a login in progress has to start again.
"""

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass

from flotilla.bus import Redis
from flotilla.contracts.names import login_key

LAST_S = 600


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """What has to fit when the browser comes back, and where it goes then."""

    nonce: str
    verifier: str
    destination: str


class LoginAttempts:
    """Notes logins and takes them back, once each."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def begin_attempt(self, browser: str, destination: str) -> tuple[str, LoginAttempt]:
        """Note that the browser which holds the secret `browser` sets out; give its `state`."""
        state = secrets.token_urlsafe(32)
        attempt = LoginAttempt(secrets.token_urlsafe(32), secrets.token_urlsafe(48), destination)
        note = {
            "browser": _digest(browser),
            "nonce": attempt.nonce,
            "verifier": attempt.verifier,
            "destination": destination,
        }
        await self._redis.set(login_key(_digest(state)), json.dumps(note), ex=LAST_S)
        return state, attempt

    async def take_attempt(self, state: str, browser: str) -> LoginAttempt | None:
        """The attempt of that state and that browser; None when there is none, or it was taken before."""
        note = await self._redis.getdel(login_key(_digest(state)))
        if note is None:
            return None
        found = json.loads(note)
        if not hmac.compare_digest(found.pop("browser"), _digest(browser)):
            return None
        return LoginAttempt(**found)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
