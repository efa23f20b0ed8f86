"""Tokens for Kafka's OAUTHBEARER, printed by a command of the operator's: for an identity provider, or for MSK's IAM.

The command prints the token alone, or what a token endpoint answers (RFC 6749, 5.1): `{"access_token": "…",
"expires_in": 3600}`.
"""

import asyncio
import base64
import json
import shlex
import time
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import structlog
from aiokafka.abc import AbstractTokenProvider

from flotilla.contracts.errors import ConfigurationError

_COMMAND_TIMEOUT_S = 5.0
_MAX_OUTPUT_BYTES = 64 * 1024
_DEFAULT_TOKEN_LIFE_S = 60.0
"""How long a token is used that does not show how long it is good for."""
_RENEW_AFTER_SHARE_OF_LIFE = 0.75
"""The share of its life after which another one is asked for."""

_RETRY_WAIT_S = 5.0
"""From a command that failed to the next one, while the token still serves."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OAuthToken:
    """A token, with the seconds (Unix time) at which to ask for another one, and at which it is worth nothing."""

    text: str
    renew_at: float
    expires_at: float


class KafkaTokenCommand(AbstractTokenProvider):
    """Runs the command at the first connect, and at a later one where the token is near its end."""

    def __init__(self, command: str) -> None:
        """Raises ConfigurationError for a command that no shell could split into words."""
        self._argv = _split_command(command)
        self._token: OAuthToken | None = None
        self._renewing: asyncio.Task[OAuthToken] | None = None

    async def token(self) -> str:
        """Return a token that has not expired.

        Raises:
            ConnectionError: the command failed, and no token is left.
        """
        if self._token is None or time.time() >= self._token.renew_at:
            # Clients that connect together run the command once.
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.create_task(self._renew_token())
            self._token = await asyncio.shield(self._renewing)
        return self._token.text

    async def _renew_token(self) -> OAuthToken:
        now = time.time()
        try:
            return parse_token_output(await _run_token_command(self._argv), now)
        except ConnectionError as error:
            if self._token is None or now >= self._token.expires_at:
                raise
            log.warning("kafka_token_not_renewed", reason=str(error))
            return replace(self._token, renew_at=min(now + _RETRY_WAIT_S, self._token.expires_at))


@lru_cache(maxsize=8)
def shared_token_command(command: str) -> KafkaTokenCommand:
    """Return the one provider of this process: every client, and every readiness check, connects with its token."""
    return KafkaTokenCommand(command)


def parse_token_output(output: bytes, now: float) -> OAuthToken:
    """Return the token that a command printed at `now`.

    Raises:
        ConnectionError: it is no token.
    """
    text = output.decode("utf-8", errors="replace").strip()
    life_s: float | None = None
    if text.startswith("{"):
        text, life_s = _parse_json_answer(text)
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ConnectionError(
            "FLOTILLA_KAFKA_TOKEN_COMMAND printed no token: print it alone, or a token endpoint's JSON"
        )
    if life_s is None:
        life_s = _jwt_life_s(text, now)
    if life_s is None:
        return OAuthToken(text, now + _DEFAULT_TOKEN_LIFE_S, now + _DEFAULT_TOKEN_LIFE_S)
    return OAuthToken(text, now + life_s * _RENEW_AFTER_SHARE_OF_LIFE, now + life_s)


def _split_command(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError(f"FLOTILLA_KAFKA_TOKEN_COMMAND can't be read as a command: {error}") from error
    if not words:
        raise ConfigurationError("FLOTILLA_KAFKA_TOKEN_COMMAND is empty: set the command that prints a token")
    return words


def _parse_json_answer(text: str) -> tuple[str, float | None]:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConnectionError("FLOTILLA_KAFKA_TOKEN_COMMAND printed what is neither a token nor JSON") from error
    token, life_s = answer.get("access_token"), answer.get("expires_in")
    if not isinstance(token, str):
        problem = answer.get("error", "no access_token")
        raise ConnectionError(f"FLOTILLA_KAFKA_TOKEN_COMMAND printed an answer without a token: {str(problem)[:200]}")
    return token, _parse_life_s(life_s)


def _jwt_life_s(text: str, now: float) -> float | None:
    """The seconds that a JSON Web Token (RFC 7519) is good for; None for what is none, or does not say it."""
    parts = text.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, claims, signature
        return None
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return max(0.0, float(claims["exp"]) - now)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _parse_life_s(life_s: object) -> float | None:
    """The seconds that an answer names; None for what is no such number."""
    if not isinstance(life_s, int | float) or isinstance(life_s, bool) or life_s <= 0:
        return None
    try:
        return float(life_s)
    except OverflowError:
        return None


async def _run_token_command(argv: list[str]) -> bytes:
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stderr=PIPE)
    except OSError as error:
        raise ConnectionError(f"FLOTILLA_KAFKA_TOKEN_COMMAND can't run {argv[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT_S):
            output, errors = await asyncio.gather(
                _read_bounded_output(process.stdout), _read_bounded_output(process.stderr)
            )
            code = await process.wait()
    except TimeoutError as error:
        raise ConnectionError(
            f"FLOTILLA_KAFKA_TOKEN_COMMAND: {argv[0]} took longer than {_COMMAND_TIMEOUT_S:g} s"
        ) from error
    finally:
        await _kill_process(process)
    if code != 0:
        said = errors.decode("utf-8", errors="replace").strip().splitlines()
        reason = f": {said[-1][:200]}" if said else ""
        raise ConnectionError(f"FLOTILLA_KAFKA_TOKEN_COMMAND failed: {argv[0]} ended with code {code}{reason}")
    return output


async def _read_bounded_output(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None  # noqa: S101 - opened as a pipe
    output = await stream.read(_MAX_OUTPUT_BYTES)
    while chunk := await stream.read(_MAX_OUTPUT_BYTES):
        output = (output + chunk)[:_MAX_OUTPUT_BYTES]
    return output


async def _kill_process(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
