"""`python -m flotilla.encryption new-root FILE`: make a root key."""

import sys
from pathlib import Path

from flotilla.encryption import create_key_file


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code."""
    match arguments:
        case ["new-root", file]:
            key_id = create_key_file(Path(file))
            sys.stdout.write(f"root key {key_id} is in {file}: keep it apart from backups of the databases\n")
            return 0
        case _:
            sys.stderr.write("usage: python -m flotilla.encryption new-root FILE\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
