"""Root keys in HashiCorp Vault, or in OpenBao: their transit engine wraps and unwraps, and never shows a key.

Sources: the API of the transit secrets engine (encrypt, decrypt), https://developer.hashicorp.com/vault/api-docs/secret/transit
"""

import asyncio
import re
import time
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import msgspec

from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.encryption.cipher import KEY_BYTES
from flotilla.encryption.http import JsonPoster

_FORGET_S = 50.0
"""Of a tenant's key. Keys of sessions that it opened are remembered as long again."""
_MOST_KEYS = 1_000
_PREFIX = "vault:"
_TOKEN = re.compile(r"[!-~]+")
# The database says it, and it becomes a path.
_ID = re.compile(r"vault:([A-Za-z0-9_-][A-Za-z0-9._-]*/)+[A-Za-z0-9_-][A-Za-z0-9._-]*")


_Wrapped: TypeAlias = tuple[str, bytes, str]
"""Root key, ciphertext and context."""


class _Data(msgspec.Struct):
    ciphertext: str = ""
    plaintext: str = ""


class _Answer(msgspec.Struct):
    data: _Data


class VaultTransit:
    """A key of the transit engine as root key. Its id is `vault:MOUNT/KEY`; its versions are Vault's own matter."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        mount: str = "transit",
        token_file: Path,
        ca_file: Path | None = None,
        namespace: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The token is read from its file for each request, since something beside this process renews it.

        Raises:
            ConfigurationError: the certificates can't be read.
        """
        self._poster = JsonPoster(url, ca_file)
        self._name = f"{mount}/{key}"
        self._token_file = token_file
        self._namespace = namespace
        self._clock = clock
        self._unwrapped: OrderedDict[_Wrapped, tuple[float, bytes]] = OrderedDict()
        self._asking: dict[_Wrapped, asyncio.Task[bytes]] = {}

    @property
    def current_id(self) -> str:
        """As `RootKeys`."""
        return _PREFIX + self._name

    async def wrap(self, key: bytes, context: str) -> bytes:
        """As `RootKeys`.

        Raises:
            ConfigurationError: there is no such key, or the token may not use it.
            RetryLater: Vault does not answer, is sealed, or refuses the token.
        """
        sent = {"plaintext": b64encode(key).decode(), "associated_data": _associated(context)}
        answer = await self._asked("encrypt", self._name, sent, context)
        if not answer.ciphertext:
            raise RetryLater(f"Vault's answer about {context} holds no ciphertext")
        return answer.ciphertext.encode()

    async def unwrap(self, root_id: str, wrapped: bytes, context: str) -> bytes:
        """As `RootKeys`. What was asked for within the last 50 s takes no request, and what many ask for at once takes
        one."""
        if _ID.fullmatch(root_id) is None:
            raise ConfigurationError(
                f"root key {root_id}, which wraps {context}, is not Vault's: set FLOTILLA_ENCRYPTION_KEY_FILE, too, "
                "until `flotilla privacy rotate-root` has wrapped all by Vault's"
            )
        name = (root_id, wrapped, context)
        known = self._unwrapped.get(name)
        if known is not None and known[0] > self._clock():
            return known[1]
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = asyncio.create_task(self._unwrap(name), name=f"unwrap {context}")
            asking.add_done_callback(lambda _: self._asking.pop(name))
        return await asyncio.shield(asking)  # who gives up leaves the answer to the others

    async def _unwrap(self, name: _Wrapped) -> bytes:
        root_id, wrapped, context = name
        sent = {"ciphertext": wrapped.decode(errors="replace"), "associated_data": _associated(context)}
        answer = await self._asked("decrypt", root_id.removeprefix(_PREFIX), sent, context)
        key = _key_in(answer, context)
        self._remember(name, key)
        return key

    def _remember(self, name: _Wrapped, key: bytes) -> None:
        self._unwrapped[name] = (self._clock() + _FORGET_S, key)
        self._unwrapped.move_to_end(name)
        if len(self._unwrapped) > _MOST_KEYS:
            self._unwrapped.popitem(last=False)

    async def _asked(self, verb: str, name: str, sent: dict[str, str], context: str) -> _Data:
        mount, _, key = name.rpartition("/")
        path = f"/v1/{quote(mount)}/{verb}/{quote(key, safe='')}"
        status, body = await self._poster.post(path, msgspec.json.encode(sent), self._headers())
        if status == HTTPStatus.OK:
            try:
                return msgspec.json.decode(body, type=_Answer).data
            except (msgspec.MsgspecError, RecursionError) as error:
                raise RetryLater(f"Vault's answer about {context} can't be read: {error}") from error
        said = f"Vault's {path} for {context} answers {status or 'nothing'}: {body[:300].decode(errors='replace')}"
        if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND):
            raise ConfigurationError(f"{said} (is this the key that wrapped it, and of type aes256-gcm96?)")
        raise RetryLater(f"{said} (check FLOTILLA_ENCRYPTION_VAULT_URL and the token's policy)")

    def _headers(self) -> dict[str, str]:
        file = self._token_file
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RetryLater(f"FLOTILLA_ENCRYPTION_VAULT_TOKEN_FILE={file} can't be read: {error}") from error
        if _TOKEN.fullmatch(token) is None:
            raise RetryLater(f"FLOTILLA_ENCRYPTION_VAULT_TOKEN_FILE={file} must hold one token, and nothing else")
        headers = {"x-vault-token": token, "x-vault-request": "true"}
        return headers if self._namespace is None else {**headers, "x-vault-namespace": self._namespace}


def _key_in(answer: _Data, context: str) -> bytes:
    try:
        key = b64decode(answer.plaintext, validate=True)
    except (NotBase64, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise RetryLater(f"Vault's answer about {context} holds no key")
    return key


def _associated(context: str) -> str:
    return b64encode(context.encode()).decode()
