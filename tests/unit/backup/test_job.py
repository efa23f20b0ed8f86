"""`python -m flotilla.backup`: what a Job's log and its output hold."""

import subprocess
import sys

_LONG = """
from flotilla.backup import __main__ as job

def run(given):
    progress = job.LoggedProgress()
    progress._last -= 60
    progress("rows", 1, 2)
    job.log.warning("something_odd", risks="one broker")
    return job.EXIT_OK, {"ok": True}

job.run = run
raise SystemExit(job.main(["restore", "folder"]))
"""


def test_progress_and_warnings_are_lines_of_the_log_and_the_output_is_one_document() -> None:
    done = subprocess.run([sys.executable, "-c", _LONG], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, '{"ok": true}\n'), done.stderr
    assert [line.partition('"event": "')[2].partition('"')[0] for line in done.stderr.splitlines()] == [
        "working",
        "something_odd",
    ]
