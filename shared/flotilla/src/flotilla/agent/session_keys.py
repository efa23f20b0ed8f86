"""Keys of sessions in an agent: it has no root key, and asks a worker for the key of its task's session.

The key pair that answers are encrypted for is this process's own and in its memory alone; its public half is registered
in the database with the agent's role (`flotilla.agent.registration`). So who steals a task's secret without that role
gets no key, and who has the role gets those of sessions whose tasks it holds.
"""

import asyncio
import os
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flotilla.agent.settings import AgentSettings
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import RetryLater, Undecodable
from flotilla.contracts.session_keys import SESSION_KEYS_PATH, SessionKeyAsked
from flotilla.encryption import FoundKey, KeyRefused, SessionKeyring, opened_key, with_proof
from flotilla.encryption.http import JsonPoster
from flotilla.encryption.keyring import Statements
from flotilla.postgres import Pool, TaskProof, current_task_proof, open_service_pool
from flotilla.telemetry import TRACEPARENT, current_traceparent

_RETRY_WAITS_S = (0.1, 0.3, 1.0, 2.0)
"""Between tries, while a worker is being replaced."""
_NONCE_BYTES = 16


class IssuedKeyring(SessionKeyring):
    """Gets keys of sessions from a worker, for the task that is held."""

    def __init__(self, url: str, *, writes: bool, waits_s: Sequence[float] = _RETRY_WAITS_S) -> None:
        """`url` is the workers' address, `http://host:port`; `waits_s` are the pauses between tries."""
        super().__init__(writes=writes)
        self._poster = JsonPoster(url)
        self._waits_s = waits_s
        self._private_key = X25519PrivateKey.generate()

    @property
    def public_key(self) -> bytes | None:
        """As `SessionKeyring`."""
        return self._private_key.public_key().public_bytes_raw()

    async def _find(self, connection: Statements, tenant_id: str, session_ids: Sequence[str]) -> Mapping[str, FoundKey]:
        found = {name: await self._request_key(tenant_id, name, makes=False) for name in session_ids}
        return {name: key for name, key in found.items() if key is not None}

    async def _find_or_make(self, connection: Statements, tenant_id: str, session_id: str) -> FoundKey | None:
        found = await self._request_key(tenant_id, session_id, makes=True)
        if found is None:  # nothing may be recorded in clear instead
            raise KeyRefused(
                f"this process does not get the key of session {session_id}: it holds no open task of it, or is not "
                "registered with the role of the task's agent"
            )
        return found

    async def _request_key(self, tenant_id: str, session_id: str, *, makes: bool) -> FoundKey | None:
        """The session's key; None where there is none, or the task that is held does not entitle to it."""
        proof = current_task_proof()
        if proof is None:
            return None
        request = self._build_key_request(tenant_id, session_id, proof, makes=makes)
        answer = await self._ask_worker(request)
        if answer is None:
            return None
        try:
            cipher = opened_key(request, proof.secret, self._private_key, answer)
        except Undecodable as error:
            raise RetryLater(f"session {session_id}: {error}") from error
        return None if cipher is None else FoundKey(cipher)

    def _build_key_request(self, tenant_id: str, session_id: str, proof: TaskProof, *, makes: bool) -> SessionKeyAsked:
        asked = SessionKeyAsked(
            tenant_id=tenant_id,
            session_id=session_id,
            task_id=proof.task_id,
            attempt=proof.attempt,
            public_key=b64encode(self.public_key or b"").decode(),
            nonce=os.urandom(_NONCE_BYTES).hex(),
            makes=makes,
            proof="",
        )
        return with_proof(asked, proof.secret)

    async def _ask_worker(self, asked: SessionKeyAsked) -> bytes | None:
        """What a worker answers; None where it refuses.

        Raises:
            RetryLater: none answers.
        """
        problem = ""
        traceparent = current_traceparent()
        headers = {TRACEPARENT: traceparent} if traceparent else {}
        for wait_s in (*self._waits_s, None):
            status, body = await self._poster.post(SESSION_KEYS_PATH, to_json(asked), headers)
            if status in (HTTPStatus.OK, HTTPStatus.FORBIDDEN):
                return body if status == HTTPStatus.OK else None
            problem = f"{status or 'no answer'}, {body[:300].decode(errors='replace')}"
            if wait_s is not None:
                await asyncio.sleep(wait_s)
        raise RetryLater(
            f"no worker answers with the key of session {asked.session_id}: {problem} "
            "(check FLOTILLA_SESSION_KEYS_URL, and FLOTILLA_ENCRYPTION_KEY_FILE at the worker)"
        )


@asynccontextmanager
async def open_agent_pool(settings: AgentSettings, *, application: str) -> AsyncIterator[Pool]:
    """Open the pool of an agent's process: it encrypts and decrypts with keys that workers issue."""
    url = settings.session_keys_url
    keyring = None if url is None else IssuedKeyring(url, writes=settings.encryption == "on")
    async with open_service_pool(settings, application=application, keyring=keyring) as pool:
        yield pool
