"""Checks the checkpoints of the fleet: signatures, the chain of each partition, Merkle roots, the copies in Kafka."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import asyncpg

from flotilla.audit.chain import ChainProblem
from flotilla.audit.notes import decode_note, decode_tree_head, why_tree_head_not_trusted
from flotilla.audit.proof import (
    NO_PREVIOUS_CHECKPOINT,
    Statement,
    digest_of_statements,
    merkle_root,
    split_concatenated_leaves,
)
from flotilla.config.signing import PublicKeys
from flotilla.contracts.checkpoints import CheckpointRecord
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS
from flotilla.postgres import Connection

_PAGE_SIZE = 500
_SELECT_CHECKPOINTS_AFTER = "SELECT * FROM audit.checkpoints_after($1, $2, $3)"


async def load_stored_checkpoints(connection: Connection, partition: int) -> AsyncIterator[asyncpg.Record]:
    """The rows of a partition's checkpoints, oldest first."""
    number = 0
    while rows := await connection.fetch(_SELECT_CHECKPOINTS_AFTER, partition, number, _PAGE_SIZE):
        for row in rows:
            yield row
        number = rows[-1]["number"]


@dataclass(slots=True)
class CheckpointFindings:
    """What was seen of all partitions' checkpoints."""

    checked: int
    problems: list[ChainProblem]
    leaves: dict[tuple[int, int], list[bytes]]
    """The signed leaves, by partition and number; only of checkpoints without a problem."""
    unseen: list[CheckpointRecord] = field(default_factory=list)
    """Published, as PostgreSQL says, but not among the copies: these may have been read a moment too early."""

    def compare_with_kafka_copies(self, in_kafka: Mapping[tuple[int, int], CheckpointRecord]) -> None:
        """Compare what was unseen with copies that were read after PostgreSQL called it published."""
        for record in self.unseen:
            if problems := _differences_from_copy(record, in_kafka.get((record.partition, record.number))):
                self.problems += [_checkpoint_problem(record.partition, record.number, text) for text in problems]
                self.leaves.pop((record.partition, record.number), None)
        self.unseen = []


async def check_checkpoints(
    connection: Connection, keys: PublicKeys | None, in_kafka: Mapping[tuple[int, int], CheckpointRecord] | None
) -> CheckpointFindings:
    """Check every checkpoint; without `keys` their signatures are taken on trust.

    `in_kafka` holds the copies of the topic, by partition and number; None leaves them out. They are read first: what
    PostgreSQL lacks was removed there. What they lack, `compare_with_kafka_copies` judges.
    """
    found = CheckpointFindings(0, [], {})
    for partition in range(SESSION_EVENTS_PARTITIONS):
        previous, last = NO_PREVIOUS_CHECKPOINT, BEFORE_FIRST_CHECKPOINT
        async for row in load_stored_checkpoints(connection, partition):
            record = _checkpoint_record_from_row(partition, row)
            problems = list(find_statement_problems(record, last, previous, keys))
            problems += _find_tree_problems(record, row["tree_size"], last.tree_size, keys)
            statement = _decode_statement(record)
            if statement is not None and row["known_heads"] != statement.heads:
                problems.append(f"{row['known_heads']} of its {statement.heads} heads are on record")
            if statement is not None and in_kafka is not None:
                problems += _find_abandoned_number_problems(statement, in_kafka)
            if in_kafka is not None and row["published_at"] is not None:
                if (copy := in_kafka.get((partition, record.number))) is not None:
                    problems += _differences_from_copy(record, copy)
                else:
                    found.unseen.append(record)
            found.problems += [_checkpoint_problem(partition, record.number, text) for text in problems]
            if not problems:
                found.leaves[partition, record.number] = split_concatenated_leaves(record.leaves)
            previous = sha256(record.statement).hexdigest()
            epoch = statement.epoch if statement else last.epoch
            last = SeenCheckpoint(record.number, epoch, row["tree_size"] or last.tree_size)
            found.checked += 1
        lost = [n for p, n in in_kafka or {} if p == partition and n > last.number]
        found.problems += [
            _checkpoint_problem(partition, n, "Kafka has it, PostgreSQL does not: it was removed") for n in lost
        ]
    return found


@dataclass(frozen=True, slots=True)
class SeenCheckpoint:
    """The checkpoint before; `BEFORE_FIRST_CHECKPOINT` where there is none."""

    number: int
    epoch: int
    tree_size: int = 0


BEFORE_FIRST_CHECKPOINT = SeenCheckpoint(0, 1)


def _decode_statement(record: CheckpointRecord) -> Statement | None:
    try:
        return Statement.from_bytes(record.statement)
    except ValueError:
        return None


def find_statement_problems(
    record: CheckpointRecord, last: SeenCheckpoint, previous: str, keys: PublicKeys | None
) -> Iterable[str]:
    """What is wrong with a checkpoint that follows `last`, whose statement's SHA-256 is `previous`."""
    if keys is not None and (problem := keys.signature_problem(record.key_id, record.statement, record.signature)):
        yield problem
    try:
        statement = Statement.from_bytes(record.statement)
    except ValueError as error:
        yield str(error)
        return
    if (statement.partition, statement.number) != (record.partition, record.number):
        yield f"its statement is that of partition {statement.partition}, number {statement.number}"
    if record.number != last.number + statement.abandoned + 1:
        yield f"checkpoint {last.number + 1} is missing before it"
    if statement.epoch != last.epoch + (1 if statement.abandoned or statement.rewinds else 0):
        yield f"it is of epoch {statement.epoch}, the one before of {last.epoch}"
    if statement.previous != previous:
        yield "it does not follow the checkpoint before it"
    leaves = split_concatenated_leaves(record.leaves)
    if statement.leaves != len(leaves) or statement.merkle_root != merkle_root(leaves).hex():
        yield "its leaves are not those that were signed"


def _find_tree_problems(
    record: CheckpointRecord, tree_size: int | None, last_size: int, keys: PublicKeys | None
) -> Iterable[str]:
    """What is wrong with the signed note of the log's tree; older versions made none."""
    if tree_size is None and not record.tree_note and not last_size:
        return
    try:
        note = decode_note(record.tree_note)
        head = decode_tree_head(note)
    except ValueError as error:
        yield f"of its tree: {error}"
        return
    if keys is not None and (problem := why_tree_head_not_trusted(note, head, keys)):
        yield f"the note of its tree {problem}"
    if head.size != tree_size or head.size < last_size or not head.origin.endswith(f"/{record.partition}"):
        yield f"the note of its tree is of {head.origin} with {head.size} entries, after {last_size}"


def _find_abandoned_number_problems(
    statement: Statement, in_kafka: Mapping[tuple[int, int], CheckpointRecord]
) -> Iterable[str]:
    """The numbers that it left out were signed: their copies in Kafka have to be those that it names."""
    numbers = range(statement.number - statement.abandoned, statement.number)
    copies = [in_kafka[place] for number in numbers if (place := (statement.partition, number)) in in_kafka]
    if numbers and digest_of_statements(copy.statement for copy in copies) != statement.abandoned_digest:
        yield f"Kafka's checkpoints {numbers[0]} to {numbers[-1]} are not those that it abandoned"


def _differences_from_copy(record: CheckpointRecord, copy: CheckpointRecord | None) -> list[str]:
    if copy is None:
        return ["its copy in Kafka is missing"]
    return [] if copy == record else ["its copy in Kafka is another"]


def _checkpoint_problem(partition: int, number: int, text: str) -> ChainProblem:
    return ChainProblem(kind="checkpoint", detail=f"checkpoint {number} of partition {partition}: {text}")


def _checkpoint_record_from_row(partition: int, row: asyncpg.Record) -> CheckpointRecord:
    return CheckpointRecord(
        partition=partition,
        number=row["number"],
        statement=row["statement"],
        signature=row["signature"],
        key_id=row["key_id"],
        leaves=row["leaves"],
        tree_note=row["tree_note"] or b"",
    )
