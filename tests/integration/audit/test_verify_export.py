"""An export is proven by the file and the public key alone, and no damage to it passes."""

import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from flotilla.audit.proof import Statement, genesis_hash, session_head_leaf
from tests.support.ground import Ground


def written(lines: list[dict[str, object]]) -> bytes:
    """The lines as the exporter spells them."""
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def run_verifier(file: Path, key: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flotilla.audit.verify_export", str(file), "--public-key", str(key)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin"}, timeout=60)


async def test_an_export_is_verified_with_the_file_and_the_key_alone(ground: Ground, tmp_path: Path) -> None:
    file = tmp_path / "s2.jsonl"
    file.write_bytes(b"".join(await ground.export("s2")))
    done = run_verifier(file, ground.folder / "audit.pub")
    assert done.returncode == 0, done
    assert "GOOD session s2: 9 events, verified up to 9, signed up to 9" in done.stdout
    assert "UNSIGNED" not in done.stdout, "the parent is signed at its event 10, and witnesses lead there"


async def test_an_export_says_which_part_of_a_parent_nobody_signed(ground: Ground, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in await ground.export("s2")]
    lines = [line for line in lines if line["kind"] != "witness" and (line["kind"], line.get("seq")) != ("anchor", 10)]
    lines[0]["segments"][0]["signed_seq"] = 6
    lines[-1] |= {"witnesses": 0, "anchors": sum(line["kind"] == "anchor" for line in lines)}
    file = tmp_path / "s2.jsonl"
    file.write_bytes(written(lines))
    done = run_verifier(file, ground.folder / "audit.pub")
    assert "UNSIGNED events 1 to 6 of its parent s1" in done.stdout
    assert done.returncode == 1, "anybody can chain events that nobody signed"


def test_the_standalone_verifier_loads_no_client_of_a_server() -> None:
    code = (
        "import sys, flotilla.audit.verify_export\n"
        "print([m for m in ('asyncpg', 'aiokafka', 'redis', 'temporalio', 'opentelemetry') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "damage", ["edited", "deleted", "swapped", "cut", "rewritten", "forged", "parent", "prefix", "witness"]
)
async def test_a_damaged_export_is_refused(ground: Ground, tmp_path: Path, damage: str) -> None:
    lines = [json.loads(line) for line in await ground.export("s2")]
    lines = damaged(lines, damage)
    file = tmp_path / "s2.jsonl"
    file.write_bytes(written(lines))
    done = run_verifier(file, ground.folder / "audit.pub")
    assert done.returncode == 1, done
    assert "BAD" in done.stdout


def link_again(lines: list[dict[str, object]], chain: bytes) -> bytes:
    """Gives these events hashes that follow from each other; the last of them."""
    for line in lines:
        chain = sha256(chain + str(line["body"]).encode()).digest()
        line["hash"] = chain.hex()
    return chain


def damaged(lines: list[dict[str, object]], damage: str) -> list[dict[str, object]]:
    """Line 0 is the header; 1 to 6 the parent's events, 7 to 10 the witnesses of its prefix."""
    if damage == "edited":
        lines[4]["body"] = str(lines[4]["body"]).replace("m4", "M4")
    elif damage == "deleted":
        del lines[4]
        lines[-1]["events"] = 8
    elif damage == "swapped":
        lines[3]["body"], lines[4]["body"] = lines[4]["body"], lines[3]["body"]
    elif damage == "cut":
        lines = lines[:-3]
    elif damage in {"rewritten", "forged"}:
        own = [line for line in lines if line["kind"] == "event" and line["session"] == "s2"]
        own[1]["body"] = str(own[1]["body"]).replace("other", "OTHER")
        chain = link_again(own, genesis_hash("default", "s2", "s1", 6))
        if damage == "forged":  # with an anchor that fits, but for its signature
            anchor = next(line for line in lines if line["kind"] == "anchor" and line["session"] == "s2")
            root = session_head_leaf("default", "s2", 9, chain).hex()
            statement = replace(Statement.from_bytes(str(anchor["statement"]).encode()), merkle_root=root)
            anchor |= {"hash": chain.hex(), "statement": statement.to_bytes().decode()}
    elif damage == "prefix":  # witnesses included
        lines[4]["body"] = str(lines[4]["body"]).replace("m4", "M4")
        link_again(lines[1:11], genesis_hash("default", "s1"))
    elif damage == "witness":
        assert lines[8]["kind"] == "witness"
        del lines[8]
        lines[-1]["witnesses"] = 3
    elif damage == "parent":
        segments = lines[0]["segments"]
        assert isinstance(segments, list)
        segments[1]["after_seq"] = 5
    return lines
