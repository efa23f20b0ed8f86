"""Signatures that OpenSSH's own `ssh-keygen -Y sign -n flotilla-vote` wrote over the text `a statement`."""

import pytest

from flotilla.contracts.votes import SSH_NAMESPACE
from flotilla.votes.errors import Unproven
from flotilla.votes.sshsig import verify_sshsig

ED25519 = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAING6XkTKqd2Je57H/kd2E/QkBNPPy4kUIFLrS+SZNdk8",
    """-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg0bpeRMqp3Yl7nsf+R3YT9CQE08
/LiRQgUutL5Jk12TwAAAANZmxvdGlsbGEtdm90ZQAAAAAAAAAGc2hhNTEyAAAAUwAAAAtz
c2gtZWQyNTUxOQAAAEB11tUbna8jT2QYhLrwIPZoIhsrF02Kqh0wB6KUYL3Mw32C8mdKWO
wMOzd7PS0Lgp6WX+KSr5ZKt436edBIsnMO
-----END SSH SIGNATURE-----
""",
)
ECDSA = (
    (
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA5sTXw0Iecxc2M6GCtSPv+pUPew"
        "QjmSbCqoN6HCxboCXV/2ilkoW3lBMmdhanlG6Vo8ZFMgnq745cCKQbij/KM="
    ),
    """-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAAGgAAAATZWNkc2Etc2hhMi1uaXN0cDI1NgAAAAhuaXN0cDI1NgAAAE
EEDmxNfDQh5zFzYzoYK1I+/6lQ97BCOZJsKqg3ocLFugJdX/aKWShbeUEyZ2FqeUbpWjxk
UyCervjlwIpBuKP8owAAAA1mbG90aWxsYS12b3RlAAAAAAAAAAZzaGE1MTIAAABjAAAAE2
VjZHNhLXNoYTItbmlzdHAyNTYAAABIAAAAIEzN5FrnU56yVV+NaYKwlQluvMI8R5L8Xjzt
/M0CZ+6mAAAAIHvwTGCXQfBOZSevtTrvuRT4EkD0fo+AoSlhc06qxHE6
-----END SSH SIGNATURE-----
""",
)


@pytest.mark.parametrize(("key", "signature"), [ED25519, ECDSA], ids=["ed25519", "ecdsa"])
def test_a_signature_that_ssh_keygen_wrote_holds_for_its_text_and_namespace_only(key: str, signature: str) -> None:
    verify_sshsig(key, b"a statement", signature, SSH_NAMESPACE)
    with pytest.raises(Unproven):
        verify_sshsig(key, b"another statement", signature, SSH_NAMESPACE)
    with pytest.raises(Unproven):
        verify_sshsig(key, b"a statement", signature, "git")
