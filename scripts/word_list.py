"""List words that the project does not use, each with the natural one.

    python scripts/word_list.py [FILES...]

Without files, every text file that git tracks. A word stays where it is a name that outsiders use, or a quotation: see
LEFT_OUT.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_KINDS = "id|number|text|events?|session|amount|argument|time|port|JSON|UUID|address|tool|task"
NATURAL = {
    r"mend(?:s|ed|ing)?": "fix, hint",
    r"anew": "again",
    r"whoever": "the caller, anyone who, no matter who",
    r"(?<!serve_)(?<!run_)for[ _]?ever": "indefinitely, permanently",
    r"what[ _]became[ _]of": "the status of, the outcome of",
    r"(?:says|tells)[ _]so": "prints a message, reports it",
    r"(?:is|are|was|were|be)[ _]told": "is notified, gets, reads, is reported",
    r"stands?[ ](?:under|before|beside|behind|in[ ]it|in[ ]its|in[ ]their)": "is, comes",
    r"came[ _]to[ _]stand": "is, are",
    r"gives?[ ](?:the|its|an)[ ](?:exit[ ]code|port|names)": "returns",
    rf"(?<!there[ _])(?:is|are)[ _]no[ _](?:{_KINDS})": "is not a …, is not a valid …",
}
WORDS = re.compile(
    "|".join(rf"(?P<w{n}>(?<![a-z])(?:{pattern})(?![a-z]))" for n, pattern in enumerate(NATURAL)), re.IGNORECASE
)
LEFT_OUT = re.compile(
    r"\.sql$|\.(png|woff2?|ico|tsv|lock|gz)$|^locks/|package-lock\.json$|^benchmarks/retrieval/|^tests/browser/corpus/"
    r"|^tests/(browser|replay)/.*\.(md|json)$|/stop_words/|^scripts/word_list\.py$|^LICENSE$"
    r"|^tests/contract/llm/"
)
"""Applied migrations, text of others and of stub models."""


def tracked() -> list[str]:
    """Return the paths of all files that git tracks."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return done.stdout.splitlines()


def findings(path: str) -> Iterator[str]:
    """Return a line for each word in the file that is on the list."""
    try:
        text = (ROOT / path).read_text(encoding="utf-8")
    except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
        return
    for number, line in enumerate(text.splitlines(), start=1):
        for match in WORDS.finditer(line):
            natural = list(NATURAL.values())[int(str(match.lastgroup)[1:])]
            yield f"{path}:{number}: {match.group()!r}: write {natural}"


def main() -> int:
    """Print the findings; return 1 if there are any."""
    paths = sys.argv[1:] or tracked()
    found = [line for path in paths if not LEFT_OUT.search(path) for line in findings(path)]
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
