"""The end of a log, and what is added to it."""

import time
from collections import deque
from pathlib import Path

from flotilla_cli.printing import write_stdout

_POLL_S = 0.2


def print_log_tail(path: Path, lines: int) -> int:
    """Print the last `lines` (0: all) and give the position behind them."""
    with path.open("rb") as file:
        for line in deque(file, maxlen=lines or None):
            write_stdout(line.decode(errors="replace"))
        return file.tell()


def follow_log(path: Path, position: int) -> None:
    """Print whole lines as they are added from `position` on, until interrupted.

    A log that was rotated is read from its top; one that is just being rotated is waited for.
    """
    inode = path.stat().st_ino
    while True:
        if path.exists():
            stat = path.stat()
            if stat.st_ino != inode or stat.st_size < position:
                inode, position = stat.st_ino, 0
            position = _print_from(path, position)
        time.sleep(_POLL_S)


def _print_from(path: Path, position: int) -> int:
    with path.open("rb") as file:
        file.seek(position)
        whole, newline, _begun = file.read().rpartition(b"\n")
    write_stdout((whole + newline).decode(errors="replace"))
    return position + len(whole) + len(newline)
