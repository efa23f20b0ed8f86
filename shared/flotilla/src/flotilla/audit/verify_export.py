"""Checks an exported history: `python -m flotilla.audit.verify_export FILE --public-key KEY`.

Needs the file, the public keys and nothing else: no database, no Kafka, no Flotilla service. It trusts nothing in the
file: every line is of a known kind, in its only place and in its only spelling, every claim of the header follows from
the events, and a checkpoint that a trusted key signed vouches for the last of them.

FILE may be compressed by gzip, and an archive has several exports one behind the other: each is checked by itself.
Exit code 0: `GOOD`, all of that holds. 1: `BAD`, with the first line that is not as it should be, or `UNSIGNED`, with
the events that no checkpoint in the file reaches. 2: the file or a key can't be read.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import msgspec

from flotilla.audit.chain import ChainChecker, ChainedEvent, ChainProblem, ExpectedChain, ProblemKind
from flotilla.audit.export_format import (
    EXPORT_FORMAT_WITHOUT_INCLUSIONS,
    Anchor,
    End,
    Event,
    Header,
    Inclusion,
    Part,
    Witness,
)
from flotilla.audit.export_lines import (
    BadLine,
    ExportLineReader,
    NotAnExport,
    open_export_file,
    printable_excerpt,
    read_export_lines,
    split_exports,
)
from flotilla.audit.export_trees import NO_WITNESSES_NEEDED, ExportedTreeChecker, WitnessPolicy
from flotilla.audit.export_votes import ExportedVoteChecker
from flotilla.audit.proof import Statement, merkle_root_from_path, session_head_leaf
from flotilla.config.signing import PublicKeys, load_public_keys
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import AUDIT_SESSION
from flotilla.votes.errors import Unproven
from flotilla.votes.roots import VoteRoots, read_vote_roots
from flotilla.votes.signer_history import SignerHistory

R = TypeVar("R", bound="ExportedEventChecker")
EXIT_GOOD, EXIT_BAD, EXIT_MISUSE = 0, 1, 2


@dataclass(slots=True)
class ExportVerdict:
    """What was found in one export."""

    session_id: str = ""
    events: int = 0
    anchored_seq: int = 0
    """Up to here a signed checkpoint vouches for the session's own events."""
    last_seq: int = 0
    signed_votes: int = 0
    """Votes whose own signatures hold, up to a root."""
    unchecked_votes: int = 0
    """Signed votes that were not checked, since no roots were given."""
    inclusions: int = 0
    """Anchors that are proven to be entries of the log's trees."""
    witnesses: int = 0
    """How many witnesses were asked for; with `GOOD`, that many cosigned every tree."""
    knows_revocations: bool = False
    """The votes were held against the tenant's log of signing keys."""
    unsigned: list[str] = field(default_factory=list)
    """What no checkpoint in the file reaches: the chain holds, but anybody can make one, and nobody signed it here."""
    unwitnessed: list[str] = field(default_factory=list)
    """Of `unsigned`: the sessions whose checkpoint is in no tree that enough of the asked witnesses cosigned."""
    problems: list[ChainProblem] = field(default_factory=list)
    """The first thing that is wrong; nothing behind it was looked at."""

    @property
    def word(self) -> str:
        """`GOOD`, `UNSIGNED` or `BAD`."""
        return "BAD" if self.problems else "UNSIGNED" if self.unsigned else "GOOD"


class ExportedEventChecker(Protocol):
    """Looks at the events of an export once they have proven to be those of the log."""

    def problem(self, seq: int, body: bytes) -> str | None:
        """What is wrong with them, up to this one; None when nothing is."""


def verify_export(
    lines: Iterable[bytes],
    keys: PublicKeys,
    roots: VoteRoots | None = None,
    signers: "ExportedSigners | None" = None,
    policy: WitnessPolicy = NO_WITNESSES_NEEDED,
) -> ExportVerdict:
    """Check an export, given as its lines, each with its newline (`read_export_lines` bounds their length).

    Holds two lines at a time, whatever the size of the file. Signed votes are checked up to `roots`, and by `signers`
    for keys that were revoked; without roots they are counted only. Fewer cosignatures than `policy` asks for leave the
    export unsigned.

    Raises:
        NotAnExport: the first line is not a header.
        ConfigurationError: the policy can't be met, or the signers are of another tenant.
    """
    policy.check_policy()
    verdict = ExportVerdict(knows_revocations=signers is not None, witnesses=policy.needed)

    def votes_of(header: Header) -> ExportedVoteChecker:
        if signers is not None and signers.tenant_id != header.tenant:
            raise ConfigurationError(
                f"the audit session is of tenant {signers.tenant_id}, the export of {header.tenant}"
            )
        return ExportedVoteChecker(header.tenant, roots, signers.history if signers else None)

    def count(votes: ExportedVoteChecker) -> None:
        verdict.signed_votes, verdict.unchecked_votes = votes.proven, votes.unchecked

    _verify_lines(lines, keys, verdict, votes_of, count, policy=policy)
    return verdict


def verify_exports(
    lines: Iterable[bytes],
    keys: PublicKeys,
    roots: VoteRoots | None = None,
    signers: "ExportedSigners | None" = None,
    policy: WitnessPolicy = NO_WITNESSES_NEEDED,
) -> Iterator[ExportVerdict]:
    """Check the exports of an archive one after the other, as `verify_export`, up to the first that is bad."""
    seen: set[str] = set()
    for export in split_exports(lines):
        verdict = verify_export(export, keys, roots, signers, policy)
        if verdict.session_id in seen:
            verdict.problems.append(
                ChainProblem(
                    kind="added",
                    detail="behind its last line the file has it again",
                    session_id=verdict.session_id,
                    seq=1,
                )
            )
        seen.add(verdict.session_id)
        yield verdict
        if verdict.problems:
            return


@dataclass(slots=True)
class ExportedSigners:
    """What the export of a tenant's audit session says of signing keys."""

    tenant_id: str = ""
    history: SignerHistory = field(default_factory=SignerHistory)

    def problem(self, seq: int, body: bytes) -> str | None:
        """What is wrong with an event about a key; None when nothing is."""
        try:
            self.history.add_audit_events(seq, [(seq, body)])
        except Unproven as error:
            return str(error)
        return None


def read_signers(
    lines: Iterable[bytes], keys: PublicKeys, policy: WitnessPolicy = NO_WITNESSES_NEEDED
) -> tuple[ExportVerdict, ExportedSigners]:
    """Check the export of a tenant's audit session, and return what it says of signing keys.

    Raises:
        NotAnExport: the first line is not a header.
        ConfigurationError: it is the export of another session, or begins with one.
    """
    verdict, signers = ExportVerdict(), ExportedSigners()

    def reader_of(header: Header) -> ExportedSigners:
        if header.session != AUDIT_SESSION:
            raise ConfigurationError(
                f"the export of session {AUDIT_SESSION} was asked for, not that of {header.session}"
            )
        if len(header.segments) > 1:  # what stands there, anybody could have written
            raise ConfigurationError(
                f"session {AUDIT_SESSION} has no parent, and the export says that it is a fork of "
                f"{header.segments[-2].session}"
            )
        signers.tenant_id = header.tenant
        return signers

    _verify_lines(lines, keys, verdict, reader_of, policy=policy)
    return verdict, signers


def _verify_lines(
    lines: Iterable[bytes],
    keys: PublicKeys,
    verdict: ExportVerdict,
    reader_of: Callable[[Header], R],
    count: Callable[[R], None] = lambda _reader: None,
    *,
    policy: WitnessPolicy,
) -> None:
    try:
        _check_lines(ExportLineReader(lines), keys, verdict, reader_of, count, policy=policy)
    except BadLine as bad:
        verdict.problems.append(bad.problem)


def _check_lines(
    lines: ExportLineReader,
    keys: PublicKeys,
    verdict: ExportVerdict,
    reader_of: Callable[[Header], R],
    count: Callable[[R], None],
    *,
    policy: WitnessPolicy,
) -> None:
    header = lines.read_required(Header, "edited", "the header")
    verdict.session_id = header.session
    if problem := _lineage_problem(header):
        lines.raise_bad_line("lineage", problem)
    witnesses = anchors = 0
    events = reader_of(header)
    trees = (
        ExportedTreeChecker(header.tenant, keys, policy) if header.format != EXPORT_FORMAT_WITHOUT_INCLUSIONS else None
    )
    for part in header.segments:
        reader = _PartReader(lines, keys, header.tenant, part, events, trees=trees)
        try:
            reader.read_part()
        finally:
            verdict.events += reader.events
            count(events)
            verdict.last_seq, verdict.anchored_seq = reader.check.last_seq, reader.anchored_seq
        verdict.unsigned += _unsigned_events(part, reader.anchored_seq, header.session)
        verdict.unwitnessed += _missing_witnesses(part, trees, policy)
        witnesses, anchors = witnesses + reader.witnesses, anchors + reader.anchors
    verdict.unsigned += verdict.unwitnessed
    end = lines.read_required(End, "added", "the end")
    inclusions = trees.proven if trees is not None else msgspec.UNSET
    if end != End(events=verdict.events, witnesses=witnesses, anchors=anchors, inclusions=inclusions):
        lines.raise_bad_line(
            "truncated", "it counts other lines than there are: the file was cut, or lines were taken out of it"
        )
    lines.check_nothing_follows()
    verdict.inclusions = inclusions or 0


def _missing_witnesses(part: Part, trees: ExportedTreeChecker | None, policy: WitnessPolicy) -> Iterator[str]:
    if trees is not None and (problem := trees.why_not_witnessed(part.session)):
        yield problem
    if trees is None and policy.needed:
        yield (
            f"the export has the format {EXPORT_FORMAT_WITHOUT_INCLUSIONS}, which holds no trees: "
            "ask for a newer export"
        )


def _lineage_problem(header: Header) -> str | None:
    """How the header contradicts itself: the lineage starts at 0, is linked, and ends in the session's own part."""
    if not header.segments:
        return "the header names no session that the history comes from"
    first, own = header.segments[0], header.segments[-1]
    if own.session != header.session:
        return f"it is given as session {header.session}, and holds the history of {own.session}"
    if first.after_seq > 0:
        return f"the events of {first.parent or 'no session'} up to {first.after_seq} are not in the file"
    if not own.after_seq <= own.upto_seq == own.signed_seq:
        return f"session {own.session} can't end before it begins, or have witnesses"
    links = zip(header.segments, header.segments[1:], strict=False)
    return next(filter(None, (_link_problem(before, part) for before, part in links)), None)


def _link_problem(before: Part, part: Part) -> str | None:
    if part.parent != before.session:
        return f"session {part.session} is a fork of {part.parent}, not of {before.session}"
    if before.upto_seq != min(part.after_seq, part.upto_seq) or before.upto_seq == 0:
        return f"session {before.session} contributes events up to {before.upto_seq}, where its fork has another start"
    if before.signed_seq < before.first_seq_after_history - 1:
        return f"session {before.session} ends before its fork begins"
    return None


def _unsigned_events(part: Part, anchored_seq: int, own_session_id: str) -> Iterator[str]:
    """What of the part no checkpoint vouches for; its start, too, is proven by a signed event of its own."""
    whose = "" if part.session == own_session_id else f" of its parent {part.session}"
    due_seq = max(part.upto_seq, part.after_seq + 1)
    if anchored_seq >= due_seq:
        return
    if part.signed_seq == part.after_seq:
        yield f"no event{whose or ' of it'} is in the file, so nothing is signed: ask for a newer export"
    else:
        yield (
            f"events {anchored_seq + 1} to {due_seq}{whose} are chained, but no checkpoint in the file has signed "
            "them: ask for a newer export"
        )


class _PartReader:
    """Reads what one session contributes to the history."""

    def __init__(
        self,
        lines: ExportLineReader,
        keys: PublicKeys,
        tenant_id: str,
        part: Part,
        reader: ExportedEventChecker,
        *,
        trees: ExportedTreeChecker | None,
    ) -> None:
        self._lines = lines
        self._keys = keys
        self._tenant_id = tenant_id
        self._part = part
        self._reader = reader
        self._trees = trees
        self.check = ChainChecker(ExpectedChain(tenant_id, part.session, part.parent, part.after_seq, {}))
        self.events = self.witnesses = self.anchors = 0
        self.anchored_seq = part.after_seq

    def read_part(self) -> None:
        """Take the events, the witnesses and the anchor, and check each.

        Raises:
            BadLine: one is not as it should be.
        """
        part = self._part
        for seq in range(part.after_seq + 1, part.signed_seq + 1):
            is_witness = seq >= part.first_seq_after_history
            self._read_event(seq, Witness if is_witness else Event)
            self.witnesses, self.events = self.witnesses + is_witness, self.events + (not is_witness)
            if (anchor := self._lines.read_optional(Anchor)) is not None:
                self._read_anchor(anchor)
                self._read_inclusion(anchor)
        if self.witnesses and self.anchored_seq != part.signed_seq:
            self._raise_bad_line("added", part.signed_seq, "these witnesses lead to no signed checkpoint")

    def _read_event(self, seq: int, kind: type[Event]) -> None:
        name = f"{kind.article} {kind.__name__.lower()}"
        place = f"{name} {seq} of session {self._part.session}"
        line = self._lines.read_required(kind, "truncated", place)
        if line.session != self._part.session:
            self._raise_bad_line("swapped", seq, f"it is of session {line.session}")
        self.check.check_event(ChainedEvent(line.seq, bytes.fromhex(line.hash), line.body.encode()))
        if (problem := self.check.problem) is not None:
            raise BadLine(replace(problem, detail=printable_excerpt(f"line {self._lines.number}: {problem.detail}")))
        if kind is Event and (wrong := self._reader.problem(seq, line.body.encode())) is not None:
            self._raise_bad_line("votes", seq, wrong)

    def _read_anchor(self, anchor: Anchor) -> None:
        self.anchors += 1
        seq = self.check.last_seq
        if self.anchors > 1:
            self._raise_bad_line("added", seq, f"session {self._part.session} has an anchor before it")
        if (anchor.session, anchor.seq) != (self._part.session, seq):
            self._raise_bad_line("swapped", seq, f"this anchor is of event {anchor.seq} of session {anchor.session}")
        if anchor.hash != self.check.last_hash.hex():
            self._raise_bad_line("rewritten", seq, "a checkpoint has another hash for it: the chain was rewritten")
        if problem := _anchor_problem(self._tenant_id, anchor, self._keys):
            self._raise_bad_line("checkpoint", seq, problem)
        self.anchored_seq = seq

    def _read_inclusion(self, anchor: Anchor) -> None:
        if (inclusion := self._lines.read_optional(Inclusion)) is None:
            return
        if self._trees is None:
            self._raise_bad_line("added", anchor.seq, "the former format has no inclusions")
        if problem := self._trees.problem_of_inclusion(anchor, inclusion):
            self._raise_bad_line("checkpoint", anchor.seq, problem)

    def _raise_bad_line(self, kind: ProblemKind, seq: int, detail: str) -> NoReturn:
        self._lines.raise_bad_line(kind, detail, self._part.session, seq)


def _anchor_problem(tenant_id: str, anchor: Anchor, keys: PublicKeys) -> str | None:
    """Why the checkpoint does not vouch for the anchor's hash; its statement is read only once it is trusted."""
    body = anchor.statement.encode()
    if problem := keys.signature_problem(anchor.key_id, body, anchor.signature):
        return f"the checkpoint {problem}"
    try:
        statement = Statement.from_bytes(body)
    except ValueError as error:
        return str(error)
    leaf = session_head_leaf(tenant_id, anchor.session, anchor.seq, bytes.fromhex(anchor.hash))
    root = merkle_root_from_path(leaf, anchor.index, statement.leaves, [bytes.fromhex(node) for node in anchor.path])
    if root is None or root.hex() != statement.merkle_root:
        return f"checkpoint {statement.number} of partition {statement.partition} does not hold this head"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Check one file and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flotilla.audit.verify_export", description=__doc__)
    parser.add_argument("file", type=Path, help="the export, JSON lines, or an archive of several")
    parser.add_argument("--public-key", type=Path, required=True, help="the audit consumer's public keys, PEM")
    parser.add_argument("--vote-roots", type=Path, help="whose approval of a voter's key counts, TOML")
    parser.add_argument("--audit-session", type=Path, help=f"export of {AUDIT_SESSION}: which keys were revoked when")
    add = parser.add_argument
    add(
        "--witness", action="append", default=[], metavar="KEY", help="a witness's key, NAME+ID+KEY; as often as needed"
    )
    add(
        "--witnesses", type=int, metavar="N", help="how many of them have to have cosigned the log's tree; default: all"
    )
    add("--origin", help="the log's name, for example flotilla.example.com/audit")
    arguments = parser.parse_args(argv)
    try:
        policy = WitnessPolicy.from_options(arguments.witness, arguments.witnesses, arguments.origin)
        keys, roots = load_public_keys(arguments.public_key), _read_vote_roots(arguments.vote_roots)
        signers = load_signers(arguments.audit_session, keys, policy) if arguments.audit_session else None
        with open_export_file(arguments.file) as file:
            found = list(verify_exports(read_export_lines(file), keys, roots, signers, policy))
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return EXIT_MISUSE
    except NotAnExport as error:
        sys.stderr.write(f"{arguments.file}: {error}\n")
        return EXIT_MISUSE
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_MISUSE
    if not found:
        sys.stderr.write(f"{arguments.file}: it is empty\n")
        return EXIT_MISUSE
    for verdict in [one for one in found if one.problems] or found:  # nothing of a bad file is good
        _print_verdict(verdict)
    return EXIT_GOOD if {one.word for one in found} == {"GOOD"} else EXIT_BAD


def _print_verdict(verdict: ExportVerdict) -> None:
    for problem in verdict.problems:
        place = f"session {problem.session_id} event {problem.seq}: " if problem.session_id else ""
        sys.stdout.write(f"BAD {place}{problem.kind}: {problem.detail}\n")
    for unsigned in verdict.unsigned:
        sys.stdout.write(f"UNSIGNED {unsigned}\n")
    sys.stdout.write(
        f"{verdict.word} session {verdict.session_id}: {verdict.events} events, verified up to {verdict.last_seq}, "
        f"signed up to {verdict.anchored_seq}{_votes_clause(verdict)}{_witnesses_clause(verdict)}\n"
    )


def load_signers(file: Path, keys: PublicKeys, policy: WitnessPolicy = NO_WITNESSES_NEEDED) -> ExportedSigners:
    """Return what the export of an audit session says of signing keys.

    Raises:
        OSError, NotAnExport: it can't be read.
        ConfigurationError: it is of another session, or is not good.
    """
    with open_export_file(file) as opened:
        verdict, signers = read_signers(read_export_lines(opened), keys, policy)
    if verdict.word != "GOOD":
        why = [problem.detail for problem in verdict.problems] + verdict.unsigned
        raise ConfigurationError(f"{file} is {verdict.word}, so it proves no revocation: {why[0]}")
    return signers


def _read_vote_roots(file: Path | None) -> VoteRoots | None:
    return None if file is None else read_vote_roots(file)


def _votes_clause(verdict: ExportVerdict) -> str:
    if verdict.unchecked_votes:
        return f"; {verdict.unchecked_votes} signed votes NOT CHECKED: give --vote-roots"
    if not verdict.signed_votes:
        return ""
    revoked = "" if verdict.knows_revocations else "; revocations NOT CHECKED: give --audit-session"
    return f"; {verdict.signed_votes} signed votes hold{revoked}"


def _witnesses_clause(verdict: ExportVerdict) -> str:
    return f"; cosigned by {verdict.witnesses} witnesses" if verdict.witnesses and verdict.word == "GOOD" else ""


if __name__ == "__main__":
    raise SystemExit(main())
