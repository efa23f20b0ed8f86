"""The chain and the Merkle tree: any change shows."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flotilla.audit.chain import ChainChecker, ChainedEvent, ExpectedChain
from flotilla.audit.proof import (
    NO_PREVIOUS_CHECKPOINT,
    Statement,
    genesis_hash,
    merkle_inclusion_path,
    merkle_root,
    merkle_root_from_path,
    next_chain_hash,
)
from flotilla.contracts.envelope import AgentEvent, encode_event
from tests.support.properties import patient

LEAVES = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=33)


def chain_of(contents: Sequence[str], after_seq: int = 0) -> list[ChainedEvent]:
    parent = "p" if after_seq else None
    chained = []
    previous = genesis_hash("default", "s1", parent, after_seq)
    for seq, content in enumerate(contents, start=after_seq + 1):
        event = AgentEvent(type="t", source="/t", subject="s1", tenant="default", sequence=seq, data={"c": content})
        previous = next_chain_hash(previous, encode_event(event))
        chained.append(ChainedEvent(seq, previous, encode_event(event)))
    return chained


def checked(
    events: Sequence[ChainedEvent], anchors: dict[int, bytes] | None = None, after_seq: int = 0
) -> ChainChecker:
    check = ChainChecker(ExpectedChain("default", "s1", "p" if after_seq else None, after_seq, anchors or {}))
    check.check_events(events)
    check.check_end_of_chain()
    return check


@patient
@given(st.lists(st.text(max_size=4), max_size=12), st.integers(0, 5))
def test_an_untouched_chain_is_good(contents: list[str], after_seq: int) -> None:
    chain = chain_of(contents, after_seq)
    check = checked(chain, {event.seq: event.hash for event in chain[::3]}, after_seq)
    assert check.problem is None
    assert check.last_seq == after_seq + len(contents)


@patient
@given(st.lists(st.text(max_size=4), min_size=2, max_size=12), st.data())
def test_any_edit_deletion_or_swap_is_named_at_its_place(contents: list[str], data: st.DataObject) -> None:
    chain = chain_of(contents)
    at = data.draw(st.integers(0, len(chain) - 1))
    edited = [*chain]
    edited[at] = replace(edited[at], body=edited[at].body.replace(b'"source":"/t"', b'"source":"/u"'))
    problem = checked(edited).problem
    assert problem is not None
    assert (problem.kind, problem.seq) == ("edited", at + 1)

    assume(at < len(chain) - 1)
    problem = checked(chain[:at] + chain[at + 1 :]).problem
    assert problem is not None
    assert (problem.kind, problem.seq) == ("deleted", at + 1)

    other = data.draw(st.integers(at + 1, len(chain) - 1))
    swapped = [*chain]
    swapped[at], swapped[other] = replace(chain[at], body=chain[other].body), replace(chain[other], body=chain[at].body)
    problem = checked(swapped).problem
    assert problem is not None
    assert (problem.kind, problem.seq) == ("swapped", at + 1)


@patient
@given(st.lists(st.text(max_size=4), min_size=1, max_size=12), st.data())
def test_a_cut_or_rewritten_chain_is_named_thanks_to_an_anchor(contents: list[str], data: st.DataObject) -> None:
    chain = chain_of(contents)
    anchors = {len(chain): chain[-1].hash}
    kept = data.draw(st.integers(0, len(chain) - 1))
    problem = checked(chain[:kept], anchors).problem
    assert problem is not None
    assert (problem.kind, problem.seq) == ("truncated", kept + 1)
    rewritten = chain_of([*contents[:-1], contents[-1] + "!"])
    problem = checked(rewritten, anchors).problem
    assert problem is not None
    assert (problem.kind, problem.seq) == ("rewritten", len(chain))


def test_chains_start_differently_for_each_tenant_session_parent_and_fork_point() -> None:
    starts = [
        genesis_hash("a", "s"),
        genesis_hash("b", "s"),
        genesis_hash("a", "t"),
        genesis_hash("a", "s", "p", 1),
        genesis_hash("a", "s", "q", 1),
        genesis_hash("a", "s", "p", 2),
        genesis_hash("a", "s", "p", 0),
        genesis_hash("as", ""),
    ]
    assert len(set(starts)) == len(starts)
    assert genesis_hash("a", "s", "p", 2) == sha256(b"a\0s\0p\x002").digest()


def rfc_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word for word: split at the largest power of two below the size."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + rfc_root(leaves[:split]) + rfc_root(leaves[split:])).digest()


@patient
@given(LEAVES)
def test_the_root_is_that_of_certificate_transparency(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == rfc_root(leaves)


@patient
@given(LEAVES, st.data())
def test_each_leaf_and_no_other_leads_to_the_root(leaves: list[bytes], data: st.DataObject) -> None:
    root = merkle_root(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle_inclusion_path(leaves, index)
    assert merkle_root_from_path(leaves[index], index, len(leaves), path) == root
    assert merkle_root_from_path(sha256(leaves[index]).digest(), index, len(leaves), path) != root
    assert merkle_root_from_path(leaves[index], index, len(leaves), [*path, root]) is None
    assert merkle_root_from_path(leaves[index], len(leaves), len(leaves), path) is None


def test_a_statement_comes_back_from_its_bytes_and_anything_else_is_refused() -> None:
    statement = Statement(
        partition=3,
        number=7,
        previous=NO_PREVIOUS_CHECKPOINT,
        next_offset=12,
        heads=2,
        merkle_root="ab",
        created_at="2026-01-01T00:00:00+00:00",
    )
    assert Statement.from_bytes(statement.to_bytes()) == statement
    for body in (b"{}", b"[]", b"junk", b'{"format":"flotilla-checkpoint/1","what":1}'):
        with pytest.raises(ValueError, match=r"."):
            Statement.from_bytes(body)
