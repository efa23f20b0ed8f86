"""The key that signs tasks in these tests, and its public half, in this process and in files for services."""

import tempfile
from pathlib import Path

from flotilla.config.signing import create_key_pair, load_signer

_FOLDER = tempfile.TemporaryDirectory(prefix="flotilla-tickets-")
KEY_FILE = Path(_FOLDER.name, "tickets.pem")
PUBLIC_KEY_FILE = Path(_FOLDER.name, "tickets.pub")
create_key_pair(KEY_FILE, PUBLIC_KEY_FILE)
SIGNER = load_signer(KEY_FILE)
KEYS = SIGNER.public_keys()
