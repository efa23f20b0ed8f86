"""Checks an exported history: `python -m flotilla.eventstore.verify_export FILE --public-key KEY`.

Needs the file, the public key and nothing else: no database, no Kafka, no Flotilla service. Exit code 0: the history
is whole and was signed; 1: it is not, and the first bad event or what nobody signed is named; 2: a file can't be read.
"""

import argparse
import json
import sys
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flotilla.contracts.errors import ConfigurationError
from flotilla.eventstore.chain_check import Chain, ChainCheck, Linked, Problem
from flotilla.eventstore.proof import Statement, head_leaf, root_from_path
from flotilla.eventstore.signing import PublicKeys, load_public_keys

FORMATS = ("flotilla-audit-export/2", "flotilla-audit-export/1")
"""The first version had no witnesses."""
EXIT_GOOD, EXIT_BAD, EXIT_MISUSE = 0, 1, 2


@dataclass(slots=True)
class ExportVerdict:
    """What was found in one export."""

    session_id: str = ""
    events: int = 0
    anchored_seq: int = 0
    """Up to here a signed checkpoint vouches for the session's own events."""
    last_seq: int = 0
    unsigned: list[str] = field(default_factory=list)
    """What no checkpoint in the file reaches: the chain holds, but anybody can make one, and nobody signed it here."""
    problems: list[Problem] = field(default_factory=list)


class NotAnExport(ValueError):
    """The file is not an export."""


def verify_export(lines: Iterable[str | bytes], keys: PublicKeys) -> ExportVerdict:
    """Checks an export, line by line; holds the hashes of one session at a time.

    Raises:
        NotAnExport: a line is not JSON or lacks what it must have, or the first is not a header.
    """
    documents = _documents(lines)
    _, header = next(documents, (1, {}))
    if header.get("kind") != "header" or header.get("format") not in FORMATS:
        raise NotAnExport(f"the first line is not a header of format {FORMATS[0]}")
    with _line(1):
        verdict = ExportVerdict(session_id=header["session"])
        parts: dict[str, _Part] = {part["session"]: _Part(header["tenant"], part) for part in header["segments"]}
    end: Mapping[str, Any] = {}
    witnesses = anchors = 0
    for number, document in documents:
        with _line(number):
            part = parts.get(document.get("session", ""))
            if document["kind"] == "event" and part is not None:
                verdict.events += 1
                part.take(document)
            elif document["kind"] == "witness" and part is not None:
                witnesses += 1
                part.take(document)
            elif document["kind"] == "anchor" and part is not None:
                anchors += 1
                part.anchor(document, keys)
            elif document["kind"] == "end":
                end = document
    if (end.get("events"), end.get("witnesses", 0), end.get("anchors")) != (verdict.events, witnesses, anchors):
        verdict.problems.append(Problem(kind="truncated", detail="the file is cut, or lines were taken out of it"))
    for part in parts.values():
        verdict.problems += part.problems()
        verdict.last_seq, verdict.anchored_seq = part.check.last_seq, part.anchored_seq
        if part.anchored_seq < part.upto_seq:
            whose = "" if part.session_id == verdict.session_id else f" of its parent {part.session_id}"
            verdict.unsigned.append(
                f"events {part.anchored_seq + 1} to {part.upto_seq}{whose} are chained, but no checkpoint in the file "
                "has signed them: ask for a newer export"
            )
    with _line(1):
        verdict.problems += _lineage_problems(header)
    return verdict


class _Part:
    """The events of one session, and what was signed of them."""

    def __init__(self, tenant_id: str, part: Mapping[str, Any]) -> None:
        self._tenant_id = tenant_id
        self.session_id = str(part["session"])
        self.upto_seq = int(part["upto_seq"])
        self._signed_seq = int(part.get("signed_seq", self.upto_seq))
        self.check = ChainCheck(Chain(tenant_id, self.session_id, part["parent"], int(part["after_seq"]), {}))
        self._hashes: dict[int, str] = {}
        self._bad_anchors: list[Problem] = []
        self.anchored_seq = int(part["after_seq"])

    def take(self, document: Mapping[str, Any]) -> None:
        self.check.take(Linked(document["seq"], bytes.fromhex(document["hash"]), document["body"].encode()))
        self._hashes[document["seq"]] = document["hash"]

    def anchor(self, document: Mapping[str, Any], keys: PublicKeys) -> None:
        seq = int(document["seq"])
        problem = _anchor_problem(self._tenant_id, self.session_id, document, keys)
        if problem is not None:
            self._bad_anchors.append(self._bad("checkpoint", seq, problem))
        elif seq not in self._hashes:
            self._bad_anchors.append(
                self._bad("truncated", seq, "a signed checkpoint has seen it; it is not in the file")
            )
        elif self._hashes[seq] != document["hash"]:
            detail = "a signed checkpoint has another hash for it: the chain was rewritten"
            self._bad_anchors.append(self._bad("rewritten", seq, detail))
        else:
            self.anchored_seq = max(self.anchored_seq, seq)

    def problems(self) -> list[Problem]:
        found = [self.check.problem] if self.check.problem else []
        if not found and self.check.last_seq < self._signed_seq:
            detail = f"the header promises events up to {self._signed_seq}"
            found.append(self._bad("truncated", self.check.last_seq + 1, detail))
        return found + self._bad_anchors

    def _bad(self, kind: Any, seq: int, detail: str) -> Problem:
        return Problem(kind=kind, detail=detail, session_id=self.session_id, seq=seq)


def _anchor_problem(tenant_id: str, session_id: str, anchor: Mapping[str, Any], keys: PublicKeys) -> str | None:
    body = anchor["statement"].encode()
    if problem := keys.problem(anchor["key_id"], body, b64decode(anchor["signature"])):
        return f"the checkpoint {problem}"
    try:
        statement = Statement.from_bytes(body)
    except ValueError as error:
        return str(error)
    leaf = head_leaf(tenant_id, session_id, int(anchor["seq"]), bytes.fromhex(anchor["hash"]))
    root = root_from_path(leaf, int(anchor["index"]), statement.heads, [bytes.fromhex(node) for node in anchor["path"]])
    if root is None or root.hex() != statement.merkle_root:
        return f"checkpoint {statement.number} of partition {statement.partition} does not hold this head"
    return None


def _lineage_problems(header: Mapping[str, Any]) -> list[Problem]:
    """Each part has to start where its parent's ends, and the last one is the session's own."""
    problems = []
    own = header["segments"][-1]["session"] if header["segments"] else None
    if own != header["session"]:
        detail = f"it is given as session {header['session']}, and holds the history of {own}"
        problems.append(Problem(kind="lineage", detail=detail))
    ends: dict[str | None, int] = {None: 0}
    for part in header["segments"]:
        if part["upto_seq"] < part["after_seq"]:
            # A fork of this one, made below where this one was forked itself: nothing of it is in the history.
            ends[part["session"]] = ends.get(part["parent"], 0)
            continue
        if ends.get(part["parent"]) != part["after_seq"]:
            detail = f"its parent's events up to {part['after_seq']} are not in the file"
            problems.append(
                Problem(kind="lineage", detail=detail, session_id=part["session"], seq=part["after_seq"] + 1)
            )
        ends[part["session"]] = part["upto_seq"]
    return problems


@contextmanager
def _line(number: int) -> Iterator[None]:
    """Says which line it is that lacks something, or has it in another form."""
    try:
        yield
    except KeyError as error:
        raise NotAnExport(f"line {number} has no {error}: it was changed, or is no line of an export") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise NotAnExport(f"line {number} can't be read: {error}") from error


def _documents(lines: Iterable[str | bytes]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        try:
            document = json.loads(line)
        except ValueError as error:
            raise NotAnExport(f"line {number} is not JSON: {error}") from error
        if not isinstance(document, dict) or "kind" not in document:
            raise NotAnExport(f"line {number} is not a line of an export")
        yield number, document


def main(argv: Sequence[str] | None = None) -> int:
    """Checks one file; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flotilla.eventstore.verify_export", description=__doc__)
    parser.add_argument("file", type=Path, help="the export, JSON lines")
    parser.add_argument("--public-key", type=Path, required=True, help="the audit consumer's public keys, PEM")
    arguments = parser.parse_args(argv)
    try:
        keys = load_public_keys(arguments.public_key)
        with arguments.file.open("rb") as lines:
            verdict = verify_export(lines, keys)
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return EXIT_MISUSE
    except NotAnExport as error:
        sys.stderr.write(f"{arguments.file}: {error}\n")
        return EXIT_MISUSE
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_MISUSE
    for problem in verdict.problems:
        place = f"session {problem.session_id} event {problem.seq}: " if problem.session_id else ""
        sys.stdout.write(f"BAD {place}{problem.kind}: {problem.detail}\n")
    for unsigned in verdict.unsigned:
        sys.stdout.write(f"UNSIGNED {unsigned}\n")
    word = "BAD" if verdict.problems else "UNSIGNED" if verdict.unsigned else "GOOD"
    sys.stdout.write(
        f"{word} session {verdict.session_id}: {verdict.events} events, verified up to {verdict.last_seq}, "
        f"signed up to {verdict.anchored_seq}\n"
    )
    return EXIT_GOOD if word == "GOOD" else EXIT_BAD


if __name__ == "__main__":
    raise SystemExit(main())
