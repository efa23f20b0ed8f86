"""The keys of sessions, as one process holds them: looked up once a minute, made where there are none yet."""

import secrets
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flotilla.config import EncryptionSettings
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.ids import new_id
from flotilla.contracts.names import AUDIT_SESSION
from flotilla.encryption.cipher import KEY_BYTES, DataKey, Unreadable
from flotilla.encryption.providers import open_root_keys
from flotilla.encryption.roots import RootKeys

FORGET_S = 50.0
"""A destroyed key is used no longer than this, on any replica."""
_MOST_KEYS = 10_000
_TRIES = 5
_SELECT_SESSION_KEY = "SELECT * FROM flotilla.session_key($1, $2)"
_KEYS = """
SELECT s.session_id, k.* FROM unnest($2::text[]) AS s (session_id)
CROSS JOIN LATERAL flotilla.session_key($1, s.session_id) AS k
"""
_ADD_SESSION_KEYS = "SELECT flotilla.add_keys($1, $2, $3, $4, $5, $6, $7)"


class Statements(Protocol):
    """What is used of a connection."""

    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def fetch(self, query: str, *args: Any) -> Any: ...
    async def execute(self, query: str, *args: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Cipher:
    """The key of one session; without one, it was destroyed."""

    person_key_id: str
    """Names the person's key, not the person."""
    key: DataKey | None

    @property
    def is_erased(self) -> bool:
        """Whether what was encrypted by it can never be read again."""
        return self.key is None


class KeyRefused(RetryLater):
    """The process may not have the key of this session (yet, or any more), so it can't record anything there."""


@dataclass(frozen=True, slots=True)
class FoundKey:
    """What was looked up of a session."""

    cipher: Cipher
    is_settled: bool = True
    """False for a key of a transaction that may yet be rolled back: it counts for that one alone."""


class SessionKeyring(ABC):
    """Remembers keys of sessions for 50 s; who inherits says where they are looked up. Safe for concurrent use."""

    def __init__(self, *, writes: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """Without `writes` only what was encrypted before is read."""
        self._writes = writes
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[float, Cipher]] = OrderedDict()

    @property
    def public_key(self) -> bytes | None:
        """For which this process is sent keys of sessions, 32 bytes of X25519; None where it unwraps them by itself."""
        return None

    @abstractmethod
    async def _find(
        self, connection: Statements, tenant_id: str, session_ids: Sequence[str]
    ) -> Mapping[str, FoundKey]: ...

    @abstractmethod
    async def _find_or_make(self, connection: Statements, tenant_id: str, session_id: str) -> FoundKey | None: ...

    def encrypts(self, session_id: str) -> bool:
        """Whether what is recorded in the session from now on is encrypted; the tenant's audit session never is."""
        return self._writes and session_id != AUDIT_SESSION

    async def writing(self, connection: Statements, tenant_id: str, session_id: str) -> Cipher | None:
        """The cipher for what is recorded in the session now; None where that stays clear: encryption is off, it is the
        tenant's audit session, or there is no such session.

        Raises:
            ConfigurationError: the root key does not open the tenant's key.
            RetryLater: the session has no key, and it can't be made now; or who has the root key does not answer.
            KeyRefused: this process may not have it.
        """
        return await self.made(connection, tenant_id, session_id) if self.encrypts(session_id) else None

    async def made(self, connection: Statements, tenant_id: str, session_id: str) -> Cipher | None:
        """The session's cipher, made if there is none yet; None for no session of this tenant. Raises as `writing`."""
        if (known := self.remembered(tenant_id, session_id)) is not None:
            return known
        found = await self._find_or_make(connection, tenant_id, session_id)
        return None if found is None else self._noted((tenant_id, session_id), found)

    async def reading(
        self, connection: Statements, tenant_id: str, session_ids: Iterable[str]
    ) -> Mapping[str, Cipher | None]:
        """The cipher of each session; None for one that has none. At most one statement."""
        ciphers = {session_id: self.remembered(tenant_id, session_id) for session_id in session_ids}
        if unknown := [session_id for session_id, cipher in ciphers.items() if cipher is None]:
            for session_id, found in (await self._find(connection, tenant_id, unknown)).items():
                ciphers[session_id] = self._noted((tenant_id, session_id), found)
        return ciphers

    def remembered(self, tenant_id: str, session_id: str) -> Cipher | None:
        """The session's cipher, if it was looked up within the last minute."""
        known = self._known.get((tenant_id, session_id))
        return known[1] if known is not None and known[0] > self._clock() else None

    def forget(self) -> None:
        """Forget all keys, so that each is looked up when it is needed next."""
        self._known.clear()

    def _noted(self, name: tuple[str, str], found: FoundKey) -> Cipher:
        if found.is_settled:
            self._known[name] = (self._clock() + FORGET_S, found.cipher)
            self._known.move_to_end(name)
            if len(self._known) > _MOST_KEYS:
                self._known.popitem(last=False)
        return found.cipher


class Keyring(SessionKeyring):
    """Unwraps keys of sessions with the root key, and makes those that are missing."""

    def __init__(self, roots: RootKeys, *, writes: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """As `SessionKeyring`."""
        super().__init__(writes=writes, clock=clock)
        self._roots = roots

    async def looked_up(self, connection: Statements, tenant_id: str, session_id: str, *, makes: bool) -> Cipher | None:
        """The session's cipher as the database has it now, for a process that remembers it for 50 s from now; made, if
        it is asked for and there is none. None for a session without one. Raises as `writing`."""
        if makes:
            found = await self._find_or_make(connection, tenant_id, session_id)
        else:
            found = (await self._find(connection, tenant_id, [session_id])).get(session_id)
        return None if found is None else self._noted((tenant_id, session_id), found)

    async def _find(self, connection: Statements, tenant_id: str, session_ids: Sequence[str]) -> Mapping[str, FoundKey]:
        rows = {row["session_id"]: row for row in await connection.fetch(_KEYS, tenant_id, session_ids)}
        found = {name: await self._unwrapped(tenant_id, name, row) for name, row in rows.items()}
        return {name: key for name, key in found.items() if key is not None}

    async def _find_or_make(self, connection: Statements, tenant_id: str, session_id: str) -> FoundKey | None:
        for _ in range(_TRIES):
            row = await connection.fetchrow(_SELECT_SESSION_KEY, tenant_id, session_id)
            if row is None:
                return None
            if (found := await self._unwrapped(tenant_id, session_id, row)) is not None:
                return found
            await self._add(connection, tenant_id, session_id, row)
        raise RetryLater(f"session {session_id} gets its key from another process right now")

    async def _unwrapped(self, tenant_id: str, session_id: str, row: Any) -> FoundKey | None:
        """The cipher of a session's row; None where its keys are incomplete."""
        if row["is_erased"]:
            cipher = Cipher(row["key_id"], None)
        elif row["session_key"] is None:
            return None
        else:
            person = await self._person_key(tenant_id, row)
            key = _unwrap(person, row["session_key"], _of_session(tenant_id, session_id), row["key_id"])
            cipher = Cipher(row["key_id"], DataKey(key, tenant_id, session_id))
        return FoundKey(cipher, row["is_settled"])

    async def _add(self, connection: Statements, tenant_id: str, session_id: str, row: Any) -> None:
        """Make what is missing of the session's keys. The next look-up shows if these count or others."""
        root_id, wrapped_tenant = row["root_id"], row["tenant_key"]
        if wrapped_tenant is None:
            root_id = self._roots.current_id
            wrapped_tenant = await self._roots.wrap(_new_key(), key_context_of_tenant(tenant_id))
        key_id, wrapped_person = row["key_id"], row["person_key"]
        tenant = DataKey(await self._roots.unwrap(root_id, wrapped_tenant, key_context_of_tenant(tenant_id)))
        if key_id is None:
            key_id = new_id()
            wrapped_person = tenant.seal(_new_key(), _of_person(tenant_id, key_id))
        person = DataKey(_unwrap(tenant, wrapped_person, _of_person(tenant_id, key_id), key_id))
        wrapped = person.seal(_new_key(), _of_session(tenant_id, session_id))
        arguments = (key_id, root_id, wrapped_tenant, wrapped_person, wrapped)
        await connection.execute(_ADD_SESSION_KEYS, tenant_id, session_id, *arguments)

    async def _person_key(self, tenant_id: str, row: Any) -> DataKey:
        tenant = await self._roots.unwrap(row["root_id"], row["tenant_key"], key_context_of_tenant(tenant_id))
        place = _of_person(tenant_id, row["key_id"])
        return DataKey(_unwrap(DataKey(tenant), row["person_key"], place, row["key_id"]))


def open_keyring(settings: object) -> Keyring | None:
    """The keyring that a service's settings ask for; None for one without keys.

    Raises:
        ConfigurationError: the root keys can't be used.
    """
    if not isinstance(settings, EncryptionSettings) or (roots := open_root_keys(settings)) is None:
        return None
    return Keyring(roots, writes=settings.encryption == "on")


def _unwrap(key: DataKey, wrapped: bytes, place: str, key_id: str) -> bytes:
    try:
        return key.open(wrapped, place)
    except Unreadable as error:
        raise RetryLater(f"the row of key {key_id} was changed: restore it from a backup ({place})") from error


def _new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def key_context_of_tenant(tenant_id: str) -> str:
    """What a wrapped key of a tenant is bound to."""
    return f"key of tenant {tenant_id}"


def _of_person(tenant_id: str, key_id: str) -> str:
    return f"key {key_id} of tenant {tenant_id}"


def _of_session(tenant_id: str, session_id: str) -> str:
    return f"key of session {session_id} of tenant {tenant_id}"
