"""Whether a key that signs votes is revoked in the signed log: nothing that the gateway or the database says counts."""

import tempfile
import time
from pathlib import Path
from typing import Any

from flotilla.audit.export_lines import NotAnExport, read_lines
from flotilla.audit.verify_export import read_signers
from flotilla.config.signing import PublicKeys, load_public_keys
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import AUDIT_SESSION
from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.gateway import GatewayClient

_POLL_S = 2.0


class _NotProven(Exception):
    """Why the export that was looked at proves no revocation."""


def prove_revocation(gateway: GatewayClient, fingerprint: str, public_key: Path, *, wait_s: float) -> dict[str, Any]:
    """Return the place of the key's revocation in the tenant's signed log; look again for `wait_s` until it is there.

    Raises:
        Misuse: the public key can't be read.
        CliError: no signed history holds it.
    """
    try:
        keys = load_public_keys(public_key)
    except ConfigurationError as error:
        raise Misuse(str(error), "--public-key takes the audit consumer's public key, PEM") from error
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            return _look(gateway, fingerprint, keys)
        except _NotProven as why:
            if time.monotonic() >= give_up_at:
                raise CliError(
                    f"no signed history holds a revocation of {fingerprint}: {why}",
                    "add the fingerprint to `revoked` in the file of vote roots, and restart worker and agents",
                ) from why
        time.sleep(_POLL_S)


def _look(gateway: GatewayClient, fingerprint: str, keys: PublicKeys) -> dict[str, Any]:
    tenant = str(gateway.me()["tenant"])
    with tempfile.TemporaryFile() as export:
        export.writelines(gateway.download_chunks("/audit/export", session_id=AUDIT_SESSION))
        export.seek(0)
        try:
            verdict, signers = read_signers(read_lines(export), keys)
        except (NotAnExport, ConfigurationError) as error:
            raise _NotProven(str(error)) from error
    if verdict.problems:
        raise _NotProven(f"the export is BAD: {verdict.problems[0].detail}")
    if signers.tenant_id != tenant:
        raise _NotProven(f"the export is of tenant {signers.tenant_id}, not of {tenant}")
    place = signers.history.revocation_seq(fingerprint)
    if place is None or place > verdict.anchored_seq:
        raise _NotProven(f"it is not among the {verdict.anchored_seq} events that are signed")
    return {"fingerprint": fingerprint, "tenant": tenant, "revoked_by_event": place, "signed_to": verdict.anchored_seq}
