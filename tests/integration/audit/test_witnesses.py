"""Witnesses: who holds the signing key and the database can't show a history that they did not see growing."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from audit_consumer.checkpoints import make_checkpoint
from audit_consumer.witnesses import LogWitness as Asked
from audit_consumer.witnesses import WitnessJob, parse_witnesses
from flotilla.audit.export_trees import WitnessPolicy
from flotilla.audit.notes import NoteKey
from flotilla.audit.proof import genesis_hash
from flotilla.audit.verify_export import ExportVerdict, main, verify_export
from flotilla.config.signing import load_public_keys, load_signer, signer_with_new_key
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import AUDIT_LOG_ORIGIN, SESSION_EVENTS_PARTITIONS
from flotilla.telemetry import metrics
from tests.support.ground import Ground
from tests.support.log_witness import LogWitness, serving

ORIGIN = AUDIT_LOG_ORIGIN


@dataclass
class Watched:
    """A signed history, and two witnesses of its log."""

    ground: Ground
    witnesses: list[LogWitness]
    asked: list[Asked]
    http: httpx.AsyncClient
    quorum: int = 2

    def job(self) -> WitnessJob:
        owned = dict.fromkeys(range(SESSION_EVENTS_PARTITIONS), 0)
        return WitnessJob(self.ground.audit_pool, self.http, self.asked, self.quorum, timeout_s=5, owned=lambda: owned)

    async def publish(self) -> None:
        """Makes Kafka have a copy of every checkpoint, as far as PostgreSQL knows."""
        await self.ground.projected.execute("UPDATE audit.checkpoints SET published_at = now()")

    async def exported(self, session_id: str = "s1") -> list[bytes]:
        return await self.ground.export(session_id)

    def verified(self, lines: list[bytes], needed: int = 2, origin: str = ORIGIN) -> ExportVerdict:
        keys = load_public_keys(self.ground.folder / "audit.pub")
        policy = WitnessPolicy([witness.key for witness in self.witnesses], needed, origin)
        return verify_export(lines, keys, policy=policy)

    async def cosigned(self) -> list[tuple[int, str]]:
        rows = await self.ground.projected.fetch("SELECT number, witness FROM audit.log_cosignatures ORDER BY 1, 2")
        return [(row["number"], row["witness"]) for row in rows]


@pytest.fixture
def witnesses(ground: Ground) -> list[LogWitness]:
    keys = load_public_keys(ground.folder / "audit.pub")
    return [LogWitness(f"{name}.example.org", keys) for name in ("first", "second")]


@pytest.fixture
def urls(witnesses: list[LogWitness]) -> Iterator[list[str]]:
    with serving(witnesses) as found:
        yield found


@pytest.fixture
async def watched(ground: Ground, witnesses: list[LogWitness], urls: list[str]) -> AsyncIterator[Watched]:
    words = [f"{url}#{witness.key.to_text()}" for witness, url in zip(witnesses, urls, strict=True)]
    async with httpx.AsyncClient(trust_env=False) as http:
        watched = Watched(ground, witnesses, parse_witnesses(words), http)
        await watched.publish()
        yield watched


def failures(witness: LogWitness, reason: str) -> float:
    counter = metrics.AUDIT_WITNESS_FAILURES.labels(witness.name, reason)
    return float(counter._value.get())


async def test_an_export_proves_a_session_with_trees_that_witnesses_cosigned(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watched.verified(await watched.exported(), needed=0).word == "GOOD", (
        "the log's own signature is there at once"
    )
    assert watched.verified(await watched.exported()).word == "UNSIGNED"
    await watched.job().ask_all_witnesses()
    lines = await watched.exported("s2")
    found = watched.verified(lines)
    assert (found.word, found.inclusions, found.problems) == ("GOOD", 2, [])
    assert b'"s2"' not in b"".join(await watched.exported("s1")), "one session is proven without another"
    file = tmp_path / "s2.jsonl"
    file.write_bytes(b"".join(lines))
    keys = [argument for witness in watched.witnesses for argument in ("--witness", witness.key.to_text())]
    command = [str(file), "--public-key", str(watched.ground.folder / "audit.pub"), *keys, "--origin", ORIGIN]
    assert main([*command, "--witnesses", "2"]) == 0
    assert capsys.readouterr().out.endswith("; cosigned by 2 witnesses\n")
    assert main([*command, "--witnesses", "3"]) == 2
    assert main([*command[:-2], "--witnesses", "2"]) == 2, "witnesses cosign other logs, too"


async def test_a_tree_that_kafka_has_no_copy_of_is_not_shown(watched: Watched) -> None:
    """PostgreSQL may lose it, and the next tree of that size be another one."""
    await watched.ground.projected.execute("UPDATE audit.checkpoints SET published_at = NULL")
    found = watched.verified(await watched.exported(), needed=0)
    assert (found.word, found.inclusions) == ("GOOD", 0)
    await watched.publish()
    assert watched.verified(await watched.exported(), needed=0).inclusions == 1


async def test_a_tree_whose_tiles_are_gone_ends_no_job(watched: Watched) -> None:
    await watched.job().ask_all_witnesses()
    await watched.ground.projected.execute("DELETE FROM audit.log_cosignatures")
    for witness in watched.witnesses:
        witness.answer = (409, b"1\n")
    await watched.ground.projected.execute("DELETE FROM audit.log_tiles")
    await watched.job().ask_all_witnesses()
    assert await watched.cosigned() == []


async def test_a_history_forged_with_the_stolen_key_is_refused_by_witnesses(watched: Watched) -> None:
    await watched.job().ask_all_witnesses()
    ground, (first, _) = watched.ground, watched.witnesses
    before = failures(first, "refused") + failures(first, "ahead")
    await ground.projected.execute(
        "UPDATE audit.session_events SET body = convert_to(replace(convert_from(body, 'UTF8'), 'm4', 'M4'), 'UTF8')"
        " WHERE session_id = 's1' AND seq = 4"
    )
    await ground.rechain("s1", genesis_hash("default", "s1"))
    for table in ("log_cosignatures", "checkpoint_heads", "checkpoints", "log_tiles"):
        await ground.projected.execute(f"DELETE FROM audit.{table}")
    await ground.projected.execute("UPDATE audit.session_heads SET dirty = true")
    await sign_again(ground)
    await watched.publish()
    lines = await watched.exported("s1")
    assert watched.verified(lines, needed=0).word == "GOOD", "the key alone convinces"
    await watched.job().ask_all_witnesses()
    assert watched.verified(await watched.exported("s1")).word == "UNSIGNED"
    assert watched.verified(await watched.exported("s1"), needed=1).word == "UNSIGNED"
    assert failures(first, "refused") + failures(first, "ahead") > before


async def sign_again(ground: Ground) -> None:
    signer = load_signer(ground.folder / "audit.pem")
    for row in await ground.projected.fetch("SELECT kafka_partition, next_offset FROM audit.consumer_offsets"):
        await make_checkpoint(ground.audit_pool, row["kafka_partition"], row["next_offset"], signer)


async def test_a_cosignature_of_one_tree_does_not_serve_another(watched: Watched) -> None:
    await watched.job().ask_all_witnesses()
    lines = await watched.exported("s1")
    good = b"".join(lines)
    for old, new in (
        (b'"index":9', b'"index":8'),
        (ORIGIN.encode(), b"other.example.com/audit"),
        (b'"path":["', b'"path":["' + b"0" * 64 + b'","'),
    ):
        assert old in good
        at = next(n for n, line in enumerate(lines) if b'"kind":"inclusion"' in line)
        changed = [*lines[:at], lines[at].replace(old, new, 1), *lines[at + 1 :]]
        assert watched.verified(changed, needed=0).word == "BAD"
    assert watched.verified(lines, origin="other.example.com/audit").word == "BAD"


async def test_a_witness_that_is_away_holds_up_nothing_and_signs_when_it_is_back(watched: Watched) -> None:
    job = watched.job()
    first, second = watched.witnesses
    second.answer = (503, b"")
    await job.ask_all_witnesses()
    assert {key for _, key in await watched.cosigned()} == {first.key.to_text()}
    assert watched.verified(await watched.exported(), needed=1).word == "GOOD"
    assert watched.verified(await watched.exported()).word == "UNSIGNED"
    second.answer = None
    await job.ask_all_witnesses()
    assert watched.verified(await watched.exported()).word == "GOOD"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"x" * 100_000),
        (200, "— first.example.org AAAA\n".encode()),
        (200, "— first.example.org AAAAAAAAAAAAAAAAAAAAAAAA\n".encode()),
        (409, b"1\n"),
        (409, b"99999\n"),
        (409, b"9" * 5000),
        (409, b"-1"),
        (422, b"\xff" * 300),
        (301, b""),
    ],
)
async def test_what_a_witness_answers_counts_only_with_its_signature(
    watched: Watched, status: int, body: bytes
) -> None:
    for witness in watched.witnesses:
        witness.answer = (status, body)
    await watched.job().ask_all_witnesses()
    assert await watched.cosigned() == []
    assert watched.witnesses[0].asked <= 4, "of each tree at most twice"


async def test_a_witness_that_knows_the_log_from_another_replica_says_how_far(watched: Watched) -> None:
    await watched.job().ask_all_witnesses()
    await watched.ground.projected.execute("DELETE FROM audit.log_cosignatures")
    await watched.job().ask_all_witnesses()  # knows of no size
    assert len(await watched.cosigned()) == 4
    heads = {head.origin for witness in watched.witnesses for head in witness.seen.values()}
    assert heads == {f"{ORIGIN}/0", f"{ORIGIN}/1"}


def test_settings_name_a_witness_once_with_its_own_kind_of_key() -> None:
    witness = LogWitness("w.example.org", signer_with_new_key().public_keys())
    word = f"https://w.example.org/#{witness.key.to_text()}"
    assert [one.url for one in parse_witnesses([word])] == ["https://w.example.org"]
    for words in (
        [word, word],
        [witness.key.to_text()],
        ["https://w#" + NoteKey("w", 1, witness.key.key).to_text()],
        [word.replace("https", "file")],
    ):
        with pytest.raises(ConfigurationError):
            parse_witnesses(words)
