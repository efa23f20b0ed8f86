"""What a process whose event loop stands still leaves in its log."""

import subprocess
import sys

PROGRAM = """
import asyncio, time
from flotilla.runtime.stalls import dump_stacks_on_stall

def block(seconds):
    time.sleep(seconds)

async def main():
    async with dump_stacks_on_stall(after_s=0.2):
        await asyncio.sleep({idle_s})
        block({blocked_s})

asyncio.run(main())
"""


def said(*, idle_s: float, blocked_s: float) -> str:
    program = PROGRAM.format(idle_s=idle_s, blocked_s=blocked_s)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stderr


def test_a_loop_that_is_blocked_shows_where_it_stands() -> None:
    assert "in block" in said(idle_s=0.0, blocked_s=1.0)


def test_a_loop_that_waits_shows_nothing() -> None:
    assert said(idle_s=1.0, blocked_s=0.0) == ""
