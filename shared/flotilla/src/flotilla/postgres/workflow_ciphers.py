"""The keys of what Temporal keeps of a workflow: those of the session that the workflow's row names."""

from collections import OrderedDict

from flotilla.encryption import Cipher, SessionKeyring
from flotilla.postgres.pool import Pool, tenant_transaction

_MOST = 10_000
_SELECT_SESSIONS_OF_WORKFLOW = "SELECT * FROM flotilla.sessions_of_workflow($1)"


class WorkflowCiphers:
    """Looks up the keys of workflows' sessions. What was looked up within the last minute takes no statement."""

    def __init__(self, pool: Pool, keyring: SessionKeyring) -> None:
        self._pool = pool
        self._keyring = keyring
        self._sessions: OrderedDict[str, tuple[str, str]] = OrderedDict()

    async def session_of(self, workflow_id: str) -> tuple[str, str] | None:
        """Tenant and session of the workflow; None where no row, or no single one, names it (yet)."""
        known = self._sessions.get(workflow_id)
        if known is None:
            rows = await self._pool.fetch(_SELECT_SESSIONS_OF_WORKFLOW, workflow_id)
            if len(rows) != 1:
                return None
            known = (rows[0]["tenant_id"], rows[0]["session_id"])
            self.note(workflow_id, *known)
        return known

    def note(self, workflow_id: str, tenant_id: str, session_id: str) -> None:
        """Remember what a workflow's payload says of itself, once it was decrypted."""
        self._sessions[workflow_id] = (tenant_id, session_id)
        if len(self._sessions) > _MOST:
            self._sessions.popitem(last=False)

    async def writing(self, tenant_id: str, session_id: str) -> Cipher | None:
        """The cipher for what the session's workflows keep now; None where that stays clear."""
        if not self._keyring.encrypts(session_id):
            return None
        if (known := self._keyring.remembered(tenant_id, session_id)) is not None:
            return known
        async with tenant_transaction(self._pool, tenant_id) as connection:
            return await self._keyring.writing(connection, tenant_id, session_id)

    async def reading(self, tenant_id: str, session_id: str) -> Cipher | None:
        """The session's cipher; None for a session that has none."""
        if (known := self._keyring.remembered(tenant_id, session_id)) is not None:
            return known
        async with tenant_transaction(self._pool, tenant_id) as connection:
            return (await self._keyring.reading(connection, tenant_id, [session_id]))[session_id]


def create_workflow_ciphers(pool: Pool, keyring: SessionKeyring | None) -> WorkflowCiphers | None:
    """The keys for Temporal's payloads; None without a keyring. It is that of the pool, so that a destroyed key is
    forgotten once, for all."""
    return None if keyring is None else WorkflowCiphers(pool, keyring)
