"""An export with votes that people signed, made by the product: the standalone verifier on it, and on forgeries of it.

The forger of these tests has the audit consumer's signing key, too, and links and signs again what was changed: what
finds the forgeries are the votes alone.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from flotilla.audit.proof import Statement, genesis_hash, session_head_leaf
from flotilla.config.signing import create_key_pair, load_signer
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.names import AUDIT_SESSION
from flotilla.votes.statements import canonical_statement_text
from tests.e2e.fleet import Fleet
from tests.e2e.signing import Root, roots_text, write_key
from tests.support.votes import Ed25519Key, SshKey, enrolled, statement_of
from tests.support.waiting import eventually

Line = dict[str, Any]
ARGS = {"text": "pay"}


@dataclass(frozen=True)
class Verifier:
    """The standalone verifier, as an auditor runs it."""

    fleet: Fleet
    roots: Path
    signers: Path
    folder: Path

    def says(self, lines: list[Line] | Path, roots: Path | None = None, signers: Path | None = None) -> tuple[int, str]:
        file = lines if isinstance(lines, Path) else self.folder / "forged.jsonl"
        if isinstance(lines, list):
            file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        key = self.fleet.home / "audit-signing.pub"
        options = ["--public-key", str(key), "--vote-roots", str(roots or self.roots)]
        options += ["--audit-session", str(signers or self.signers)]
        command = [sys.executable, "-m", "flotilla.audit.verify_export", str(file), *options]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin"}, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    def signed_again(self, lines: list[Line]) -> list[Line]:
        """The lines as one would have them who can sign checkpoints: hashes that follow, and one anchor that holds."""
        events = [line for line in lines if line["kind"] == "event"]
        session = events[0]["session"]
        chain = genesis_hash("default", session)
        for seq, line in enumerate(events, 1):
            body = json.loads(line["body"])
            line["body"] = json.dumps({**body, "sequence": seq}, separators=(",", ":"), ensure_ascii=False)
            chain = sha256(chain + line["body"].encode()).digest()
            line |= {"seq": seq, "hash": chain.hex()}
        anchor = next(line for line in lines if line["kind"] == "anchor")
        leaf = session_head_leaf("default", session, len(events), chain).hex()
        stated = replace(Statement.from_bytes(anchor["statement"].encode()), heads=1, rewinds=0, merkle_root=leaf)
        signer = load_signer(self.fleet.home / "audit-signing.pem")
        signature = msgspec.to_builtins(signer.sign(stated.to_bytes()))
        anchor |= {"seq": len(events), "hash": chain.hex(), "index": 0, "path": []}
        anchor |= {"statement": stated.to_bytes().decode(), "signature": signature}
        header, end = lines[0], lines[-1]
        header["segments"][0] |= {"upto_seq": len(events), "signed_seq": len(events)}
        end |= {"events": len(events), "witnesses": 0, "anchors": 1, "inclusions": 0}
        return [header, *events, anchor, end]


@dataclass(frozen=True)
class Exports:
    """The history of one action, and that of another one by the same people."""

    verifier: Verifier
    file: Path
    other: Path
    revoked: str
    """The fingerprint of Ida's key, whose revocation is in the log."""
    approved: str
    """Of Sam's, which is not revoked."""

    def lines(self) -> list[Line]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def forged(self, change: Callable[[list[Line]], list[Line]]) -> tuple[int, str]:
        return self.verifier.says(self.verifier.signed_again(change(self.lines())))


@dataclass(frozen=True)
class Voters:
    """Ida signs on the command line with an Ed25519 key, Sam through the API as `ssh-keygen` does."""

    fleet: Fleet
    tokens: dict[str, str]
    ida_file: Path
    ida: Line
    sam_key: SshKey
    sam: Line

    @classmethod
    def enrolled(cls, fleet: Fleet, grace: Root, folder: Path) -> "Voters":
        tokens = {name: person(fleet, name, role) for name, role in PEOPLE.items()}
        ida_file, sam_key = write_key(folder / "ida.pem", Ed25519Key()), SshKey()
        ida = fleet.cli_json("signers", "enroll", "--key", str(ida_file), "--token", tokens["ida"])
        with api(fleet, tokens["sam"]) as client:
            sam = client.post("/v1/signers", json=to_builtins(enrolled(sam_key, "sam", "default"))).json()
        options = ["--key", str(grace.key_file), "--token", tokens["grace"]]
        for one in (ida, sam):
            fleet.cli("signers", "approve", one["signer_id"], "--fingerprint", one["fingerprint"], *options)
        return cls(fleet, tokens, ida_file, ida, sam_key, sam)

    async def approve(self, action_id: str) -> str:
        """Both sign; returns the session of the action, once it is done."""
        with api(self.fleet, self.tokens["sam"]) as client:
            shown: Line = client.get(f"/v1/approvals/{action_id}").json()
            options = ["--content-hash", shown["content_hash"], "--sign-with", str(self.ida_file)]
            self.fleet.cli("approvals", "approve", action_id, *options, "--token", self.tokens["ida"])
            answer = client.post(f"/v1/approvals/{action_id}/decision", json=self._sams(shown))
        assert answer.status_code == 200, answer.text
        await eventually(lambda: done(self.fleet, action_id), timeout_s=60)
        return str(shown["session_id"])

    def _sams(self, shown: Line) -> Line:
        vote = statement_of(
            "sam",
            tenant="default",
            approval_id=shown["approval_id"],
            content_hash=shown["content_hash"],
            policy_version=shown["signing_policy_version"],
            requested_by=shown["requested_by"],
        )
        signed = {"signer_id": self.sam["signer_id"], **to_builtins(self.sam_key.sign(canonical_statement_text(vote)))}
        return {"decision": "approve", "content_hash": shown["content_hash"], "signature": signed}


@pytest.fixture(scope="module")
def exports(fleet: Fleet, grace: Root, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return asyncio.run(made_by(fleet, grace, tmp_path_factory.mktemp("exports")))


async def made_by(fleet: Fleet, grace: Root, folder: Path) -> Exports:
    voters = Voters.enrolled(fleet, grace, folder)
    sessions = [await voters.approve(await asked(fleet)) for _ in range(2)]
    files = [await exported(fleet, session, folder) for session in sessions]
    # From now on Ida's key counts for nothing; her votes were before.
    fleet.cli("signers", "revoke", voters.ida["signer_id"], "--token", voters.tokens["ida"])
    signers = await exported(fleet, AUDIT_SESSION, folder)
    fingerprints = voters.ida["fingerprint"], voters.sam["fingerprint"]
    return Exports(Verifier(fleet, grace.roots_file, signers, folder), files[0], files[1], *fingerprints)


PEOPLE = {"grace": "admin", "ida": "approver", "sam": "approver"}


def api(fleet: Fleet, token: str) -> httpx.Client:
    return httpx.Client(base_url=fleet.status()["url"], headers={"Authorization": f"Bearer {token}"}, timeout=60)


def person(fleet: Fleet, name: str, role: str) -> str:
    """A new person's key."""
    with api(fleet, fleet.key("admin")) as admin:
        answer = admin.post("/v1/keys", json={"name": name, "roles": ["viewer", role], "person": True})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


async def asked(fleet: Fleet) -> str:
    """An action that waits for signed votes."""
    body = {"action": "echo", "description": "A trial", "args": ARGS, "risk_level": "high"}
    with api(fleet, fleet.key()) as alice:
        action_id = str(alice.post("/v1/actions", json=body).json()["action_id"])

        async def waits() -> bool:
            return alice.get(f"/v1/approvals/{action_id}").status_code == 200

        await eventually(waits, timeout_s=60)
    return action_id


async def done(fleet: Fleet, action_id: str) -> bool:
    with api(fleet, fleet.key()) as alice:
        return bool(alice.get(f"/v1/actions/{action_id}").json()["status"] == "completed")


async def exported(fleet: Fleet, session_id: str, folder: Path) -> Path:
    """The session's export, once its newest event is signed."""
    file = folder / f"{session_id.replace(':', '-')}.jsonl"
    check = ["audit", "verify", "--file", str(file), "--public-key", str(fleet.home / "audit-signing.pub")]

    async def good() -> bool:
        fleet.cli("audit", "export", session_id, "--to", str(file), "--as", "admin")
        return fleet.cli(*check, check=False).returncode == 0

    await eventually(good, timeout_s=90, every_s=1.0)
    return file


def counted(lines: list[Line]) -> list[Line]:
    """The lines of the votes."""
    return [line for line in lines if line["kind"] == "event" and '"approval_counted"' in line["body"]]


def edit_vote(line: Line, change: Callable[[dict[str, Any]], None]) -> None:
    body = json.loads(line["body"])
    change(body["data"]["details"])
    line["body"] = json.dumps(body, separators=(",", ":"), ensure_ascii=False)


async def test_a_genuine_export_is_good_with_the_votes_of_a_key_that_was_revoked_later(exports: Exports) -> None:
    code, said = exports.verifier.says(exports.file)
    assert (code, "2 signed votes hold\n" in said) == (0, True), said
    code, said = exports.verifier.says(exports.verifier.signed_again(exports.lines()))
    assert (code, "2 signed votes hold\n" in said) == (0, True), said


def _other_signature(details: dict[str, Any]) -> None:
    value = details["proof"]["vote"]["signature"]["value"]
    details["proof"]["vote"]["signature"]["value"] = value[:9] + ("A" if value[9] != "A" else "B") + value[10:]


def _other_statement(details: dict[str, Any]) -> None:
    details["proof"]["vote"]["statement"] = details["proof"]["vote"]["statement"].replace("approve", "reject")


def _without_proof(details: dict[str, Any]) -> None:
    details["proof"] = None


def _without_enrolment(details: dict[str, Any]) -> None:
    details["proof"]["signer"] = details["proof"]["vote"]


def _without_approval_of_the_key(details: dict[str, Any]) -> None:
    details["proof"]["approval"] = details["proof"]["signer"]


def _another_voter(details: dict[str, Any]) -> None:
    details["subject"] = "bob"


def _checked_after_the_revocation(details: dict[str, Any]) -> None:
    statement = json.loads(details["receipt"]["statement"])
    statement["signers_seq"] = 10_000
    details["receipt"]["statement"] = json.dumps(statement, separators=(",", ":"))


@pytest.mark.parametrize(
    "change",
    [
        _other_signature,
        _other_statement,
        _without_proof,
        _without_enrolment,
        _without_approval_of_the_key,
        _another_voter,
        _checked_after_the_revocation,
    ],
)
async def test_a_forged_vote_is_found_even_if_the_history_is_signed_again(
    exports: Exports, change: Callable[[dict[str, Any]], None]
) -> None:
    def edited(lines: list[Line]) -> list[Line]:
        edit_vote(counted(lines)[0], change)
        return lines

    code, said = exports.forged(edited)
    assert (code, "BAD session" in said and " votes: " in said) == (1, True), said


async def test_a_vote_that_was_taken_out_is_missed(exports: Exports) -> None:
    code, said = exports.forged(lambda lines: [line for line in lines if line is not counted(lines)[0]])
    assert (code, "approved with 1 signed votes, policy asked for 2" in said) == (1, True), said


async def test_a_vote_about_another_action_does_not_count(exports: Exports) -> None:
    others = counted([json.loads(line) for line in exports.other.read_text().splitlines()])
    proof = json.loads(others[0]["body"])["data"]["details"]["proof"]

    def replayed(lines: list[Line]) -> list[Line]:
        edit_vote(counted(lines)[0], lambda details: details.update(proof=proof))
        return lines

    code, said = exports.forged(replayed)
    assert (code, "was signed for approval_id" in said) == (1, True), said


async def test_a_vote_by_a_key_that_was_revoked_before_is_found(exports: Exports) -> None:
    signed = exports.verifier.signed_again
    signers = [json.loads(line) for line in exports.verifier.signers.read_text().splitlines()]
    revoked = next(line for line in signers if '"signer_revoked"' in line.get("body", ""))
    # As if it had been revoked right after the log began: before any vote.
    moved = signed([signers[0], revoked, *(line for line in signers[1:] if line is not revoked)])
    file = exports.verifier.folder / "moved.jsonl"
    file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in moved))
    code, said = exports.verifier.says(exports.file, signers=file)
    assert (code, "was revoked by event 1" in said) == (1, True), said


async def test_votes_of_keys_that_the_log_does_not_approve_are_found(exports: Exports) -> None:
    signed, file = exports.verifier.signed_again, exports.verifier.folder / "bare.jsonl"
    text = exports.verifier.signers.read_text()
    renamed = [json.loads(line) for line in text.replace("signer_approved", "signer_mentioned").splitlines()]
    removed = [line for line in map(json.loads, text.splitlines()) if "signer_approved" not in line.get("body", "")]
    for lines, why in ((renamed, "is not enrolled"), (removed, "which ends at")):
        file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in signed(lines)))
        code, said = exports.verifier.says(exports.file, signers=file)
        assert (code, why in said) == (1, True), said


async def test_the_roots_of_somebody_else_prove_nothing(exports: Exports, tmp_path: Path) -> None:
    roots = tmp_path / "roots.toml"
    roots.write_text(roots_text(Ed25519Key()))
    code, said = exports.verifier.says(exports.file, roots=roots)
    assert (code, "not signed by grace" in said) == (1, True), said
    roots.write_text(roots_text(Ed25519Key()).replace('"grace"', '"mallory"'))
    code, said = exports.verifier.says(exports.file, roots=roots)
    assert (code, "not among the vote roots" in said) == (1, True), said


async def test_whether_a_revocation_is_in_the_signed_log_is_proven_without_the_database(
    exports: Exports, tmp_path: Path
) -> None:
    fleet = exports.verifier.fleet
    key = ["--public-key", str(fleet.home / "audit-signing.pub")]
    proven = fleet.cli_json("signers", "prove-revoked", exports.revoked, *key)
    assert proven["revoked_by_event"] <= proven["signed_to"]
    # As if the database had said that it is, and kept it to itself.
    hidden = fleet.cli("signers", "prove-revoked", exports.approved, "--no-wait", *key, check=False)
    assert (hidden.returncode, "no signed history holds a revocation" in hidden.stderr) == (1, True), hidden.stderr
    assert "file of vote roots" in hidden.stderr
    somebody_elses = tmp_path / "other.pem"
    create_key_pair(somebody_elses, somebody_elses.with_suffix(".pub"))
    key = ["--public-key", str(somebody_elses.with_suffix(".pub"))]
    unsigned = fleet.cli("signers", "prove-revoked", exports.revoked, "--no-wait", *key, check=False)
    assert unsigned.returncode == 1, unsigned.stdout


async def test_an_audit_session_that_is_cut_or_unsigned_is_refused(exports: Exports) -> None:
    lines = exports.verifier.signers.read_bytes().splitlines(keepends=True)
    file = exports.verifier.folder / "cut.jsonl"
    file.write_bytes(b"".join([*lines[:-3], *lines[-2:]]))
    code, said = exports.verifier.says(exports.file, signers=file)
    assert (code, "proves no revocation" in said) == (2, True), said
    code, said = exports.verifier.says(exports.file, signers=exports.other)
    assert (code, "the export of session flotilla:audit was asked for" in said) == (2, True), said
