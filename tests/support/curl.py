"""The part of curl that `docs/api.md` uses, for machines without it: `python curl.py OPTIONS URL`."""

import argparse
import sys
from pathlib import Path

import httpx


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("url")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--request")
    parser.add_argument("--json")
    parser.add_argument("--form")
    for flag in ("--silent", "--show-error", "--fail-with-body", "--no-buffer"):
        parser.add_argument(flag, action="store_true")
    asked = parser.parse_args()
    headers = dict(header.split(": ", 1) for header in asked.header)
    files = None
    if asked.json is not None:
        headers |= {"Content-Type": "application/json"}
    if asked.form is not None:
        name, _, path = asked.form.partition("=@")
        files = {name: (Path(path).name, Path(path).read_bytes())}
    method = asked.request or ("GET" if asked.json is files is None else "POST")
    with httpx.stream(method, asked.url, headers=headers, content=asked.json, files=files, timeout=90) as answer:
        for text in answer.iter_text():
            sys.stdout.write(text)
            sys.stdout.flush()
    return 22 if answer.is_error else 0


if __name__ == "__main__":
    sys.exit(main())
