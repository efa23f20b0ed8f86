"""An agent of one's own that lacks the package webauthn starts, and takes no passkey for proven."""

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["webauthn"] = None  # importing it fails, as where it is not installed
import flotilla.agent
from flotilla.votes.errors import Unproven
from flotilla.votes.keys import parse_signer_key
try:
    parse_signer_key("passkey", "cose AAAA", "credential")
except Unproven as error:
    print(error)
"""


def test_agent_sdk_imports_and_a_passkey_is_unproven_with_the_fix() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "install flotilla-fleet[votes]" in done.stdout
