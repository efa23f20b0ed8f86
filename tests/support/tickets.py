"""The key that signs tasks in these tests, and its public half, in this process and for others."""

from flotilla.config.signing import new_signer

SIGNER = new_signer()
KEYS = SIGNER.public_keys()
