"""Receipts: where the log of signing keys ended when the worker checked a vote. A database can't move a vote before a
revocation, since it can't sign one. Pure."""

import base64
import binascii
from typing import Protocol

from flotilla.contracts.votes import Signed, VoteReceipt, VoteReceiptStatement
from flotilla.votes.errors import Unproven
from flotilla.votes.statements import canonical_statement_text, parse_signed_statement, statement_digest


class ReceiptSigner(Protocol):
    """The worker's key of tickets: `flotilla.config.signing.Signer`."""

    @property
    def key_id(self) -> str:
        """Which key it is."""

    def sign(self, statement: bytes) -> bytes:
        """The signature."""


class ReceiptKeys(Protocol):
    """Its public halves: `flotilla.config.signing.PublicKeys`."""

    def signature_problem(self, key_id: str, statement: bytes, signature: bytes) -> str | None:
        """Why the signature does not hold; None when it does."""


def issue_receipt(signer: ReceiptSigner, tenant: str, approval_id: str, vote: Signed, signers_seq: int) -> VoteReceipt:
    """Return the receipt of a vote that was checked when the audit session ended with event `signers_seq`."""
    stated = VoteReceiptStatement(
        tenant=tenant, approval_id=approval_id, vote=statement_digest(vote.statement), signers_seq=signers_seq
    )
    text = canonical_statement_text(stated)
    signature = base64.b64encode(signer.sign(text.encode())).decode()
    return VoteReceipt(statement=text, key_id=signer.key_id, signature=signature)


def signers_seq_when_checked(
    receipt: VoteReceipt | None, tenant: str, approval_id: str, vote: Signed, keys: ReceiptKeys | None
) -> int | None:
    """Return where the audit session ended when the vote was checked; None where no receipt of this vote proves it.

    Such a vote has to hold by everything that is in the log now.

    Without `keys`, for those who trust the log that the receipt is from, its signature is not asked for.
    """
    if receipt is None or (keys is not None and not _is_receipt_signature_valid(receipt, keys)):
        return None
    try:
        stated = parse_signed_statement(receipt.statement, VoteReceiptStatement)
    except Unproven:
        return None
    is_about_it = (stated.tenant, stated.approval_id, stated.vote) == (
        tenant,
        approval_id,
        statement_digest(vote.statement),
    )
    return stated.signers_seq if is_about_it else None


def _is_receipt_signature_valid(receipt: VoteReceipt, keys: ReceiptKeys) -> bool:
    try:
        signature = base64.b64decode(receipt.signature, validate=True)
    except (binascii.Error, ValueError):
        return False
    return keys.signature_problem(receipt.key_id, receipt.statement.encode(), signature) is None
