"""Folders that the unprivileged user of PostgreSQL can reach."""

import os
from pathlib import Path

from flotilla_devstack.process import ProcessUser
from flotilla_devstack.servers.postgres_home import choose_server_user, is_reachable_by

STRANGER = ProcessUser("stranger", 64_999, 64_999)


def test_folder_below_a_private_one_is_out_of_reach(tmp_path: Path) -> None:
    private = tmp_path / "private"
    inner = private / "inner"
    inner.mkdir(parents=True)
    private.chmod(0o700)
    assert not is_reachable_by(inner, STRANGER)
    assert is_reachable_by(inner, None)


def test_folder_below_passable_ones_is_in_reach() -> None:
    assert is_reachable_by(Path("/usr/bin"), STRANGER)


def test_owner_may_pass_his_own_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert is_reachable_by(tmp_path, ProcessUser("me", os.getuid(), os.getgid()))


def test_postgres_runs_as_its_caller_and_never_as_root(tmp_path: Path) -> None:
    user = choose_server_user(tmp_path / "new")
    is_root = os.geteuid() == 0
    assert (user is None) is not is_root
    assert user is None or user.uid != 0
