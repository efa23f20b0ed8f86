"""Reads and writes statements: one spelling each, so that what was signed is what is read."""

import hashlib
from datetime import UTC, datetime
from typing import TypeAlias, TypeVar

import msgspec

from flotilla.contracts.votes import SignerApproval, SignerStatement, VoteReceiptStatement, VoteStatement
from flotilla.votes.errors import Unproven

SignedStatement: TypeAlias = VoteStatement | SignerStatement | SignerApproval | VoteReceiptStatement
S = TypeVar("S", VoteStatement, SignerStatement, SignerApproval, VoteReceiptStatement)
MAX_STATEMENT_BYTES = 8192
_encoder = msgspec.json.Encoder()


def canonical_statement_text(statement: SignedStatement) -> str:
    """Return the text that is signed."""
    return _encoder.encode(statement).decode()


def parse_signed_statement(text: str, kind: type[S]) -> S:
    """Return the statement that `text` is.

    Raises:
        Unproven: it is another kind of statement, or is not spelled as `written` spells it.
    """
    if len(text) > MAX_STATEMENT_BYTES:
        raise Unproven(f"a statement has at most {MAX_STATEMENT_BYTES} characters")
    try:
        statement = msgspec.json.decode(text, type=kind)
        is_as_written = canonical_statement_text(statement) == text
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unproven(f"not a {kind.__name__}: {error}") from error
    if not is_as_written:
        raise Unproven(f"a {kind.__name__} has no spaces, and exactly its members in their order")
    return statement


def statement_digest(text: str) -> str:
    """Return the SHA-256 (hex) of a statement's text: how an approval names it, and the challenge of a passkey."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_statement_time(text: str) -> datetime:
    """Return a statement's time.

    Raises:
        Unproven: there is no such day or hour.
    """
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise Unproven(f"{text} is not a time") from error


def format_statement_time(time: datetime) -> str:
    """Return `time` as statements write it, in whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
