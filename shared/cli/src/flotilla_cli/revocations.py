"""Whether a key that signs votes is revoked in the signed log: nothing that the gateway or the database says counts."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flotilla.audit.export_lines import NotAnExport, read_export_lines
from flotilla.audit.export_trees import NO_WITNESSES_NEEDED, WitnessPolicy
from flotilla.audit.verify_export import read_signers
from flotilla.config.signing import PublicKeys, load_public_keys
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import AUDIT_SESSION
from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.gateway import GatewayClient

_POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class ProofPolicy:
    """What convinces: whose checkpoints, and how many witnesses."""

    keys: PublicKeys
    witnesses: WitnessPolicy = NO_WITNESSES_NEEDED


def read_proof_policy(
    public_key: Path, witnesses: Sequence[str], needed: int | None, origin: str | None
) -> ProofPolicy:
    """Return the policy of a command line.

    Raises:
        Misuse: the public key can't be read, or the witnesses can't be asked for.
    """
    try:
        policy = ProofPolicy(load_public_keys(public_key), WitnessPolicy.from_options(witnesses, needed, origin))
        policy.witnesses.check_policy()
    except ConfigurationError as error:
        hint = "--public-key takes the audit consumer's public key, PEM; --witness NAME+ID+KEY, with --origin"
        raise Misuse(str(error), hint) from error
    return policy


class _NotProven(Exception):
    """Why the export that was looked at proves no revocation."""


def prove_revocation(gateway: GatewayClient, fingerprint: str, policy: ProofPolicy, *, wait_s: float) -> dict[str, Any]:
    """Return the place of the key's revocation in the tenant's signed log; look again for `wait_s` until it is there.

    Raises:
        CliError: no signed history holds it.
    """
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            return _look(gateway, fingerprint, policy)
        except _NotProven as why:
            if time.monotonic() >= give_up_at:
                raise CliError(
                    f"no signed history holds a revocation of {fingerprint}: {why}",
                    "add the fingerprint to `revoked` in the file of vote roots, and restart worker and agents",
                ) from why
        time.sleep(_POLL_S)


def _look(gateway: GatewayClient, fingerprint: str, policy: ProofPolicy) -> dict[str, Any]:
    tenant = str(gateway.me()["tenant"])
    with tempfile.TemporaryFile() as export:
        export.writelines(gateway.download_chunks("/audit/export", session_id=AUDIT_SESSION))
        export.seek(0)
        try:
            verdict, signers = read_signers(read_export_lines(export), policy.keys, policy.witnesses)
        except (NotAnExport, ConfigurationError) as error:
            raise _NotProven(str(error)) from error
    if verdict.problems:
        raise _NotProven(f"the export is BAD: {verdict.problems[0].detail}")
    if signers.tenant_id != tenant:
        raise _NotProven(f"the export is of tenant {signers.tenant_id}, not of {tenant}")
    place = signers.history.key_revocation_seq(fingerprint)
    if place is None or place > verdict.anchored_seq:
        raise _NotProven(f"it is not among the {verdict.anchored_seq} events that are signed")
    if verdict.unwitnessed:
        raise _NotProven(verdict.unwitnessed[-1])
    return {
        "fingerprint": fingerprint,
        "tenant": tenant,
        "revoked_by_event": place,
        "signed_to": verdict.anchored_seq,
        "witnesses": policy.witnesses.needed,
    }
