"""What can be asked by name: workflows (`rag` answers questions) and single agents, with what they take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, TypeAlias

import asyncpg

from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import Invalid, NotFound, Undecodable
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import QUESTION
from flotilla.postgres import Pool
from gateway.problems import checked_model
from gateway.schemas.runs import RunRequest
from gateway.workflows.catalog import list_served_names, load_workflow_rows

Kind: TypeAlias = Literal["workflows", "agents"]
_QUESTION_FIELDS = frozenset({"query", "top_k", "history"})
"""What an agent gets of a question."""
# The newest instance of each.
_SELECT_AGENTS = """
SELECT DISTINCT ON (name) name, version, input_schema, output_schema FROM flotilla_ops.agents
WHERE $1::text IS NULL OR name = $1 ORDER BY name, started_at DESC
"""
_AGENT_NAMES = "SELECT DISTINCT name FROM flotilla_ops.agents ORDER BY name"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ObjectSchema:
    """What is read of a schema here and by clients."""

    properties: dict[str, dict[str, Any]] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTarget:
    """A workflow or an agent."""

    kind: Kind
    name: str
    description: str
    version: str = "1"
    input_schema: Mapping[str, Any] = field(default_factory=dict)
    output_schema: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_only_a_question(self) -> bool:
        """Whether it takes a question, and nothing else."""
        return self.kind == "agents" or self.name == QUESTION

    @property
    def can_be_asked(self) -> bool:
        """Whether a message is all that it needs. Agents that are steps of workflows may need more, such as a tool."""
        return self.kind == "workflows" or _QUESTION_FIELDS.issuperset(self.input_schema.get("required", ()))

    @property
    def agents_of_run(self) -> list[str]:
        """Return the agents that a run of it asks; empty for a workflow, which chooses them itself."""
        return [self.name] if self.kind == "agents" else []

    @property
    def workflow_of_run(self) -> str:
        """Return the name of the workflow that a run of it starts."""
        return QUESTION if self.kind == "agents" else self.name

    def to_run_request(self, text: str, data: JsonObject | None = None) -> RunRequest:
        """Return the run that a message asks for: its data is a workflow's input; a text is, too, where it is a JSON
        object, or where the workflow takes a single text.

        Raises:
            Invalid: it does not take that.
            RequestValidationError: a limit is exceeded, or something can't be stored.
        """
        if self.takes_only_a_question:
            if data is not None:
                raise Invalid(f"{self.name} takes a question as text, not data")
            return checked_model(RunRequest, query=text, steps=self.agents_of_run)
        if data is not None and text:
            raise Invalid(f"{self.name} takes its input either as data or as text")
        given = (
            data if data is not None else parse_object_for_schema(text, self.input_schema, f"the input of {self.name}")
        )
        return checked_model(RunRequest, workflow=self.name, input=dict(given))


def parse_object_for_schema(text: str, schema: Mapping[str, Any], what: str) -> JsonObject:
    """Return `text` as a JSON object that may fit `schema`: it is one, or the only text that there can be in it.

    Raises:
        Invalid: it is not JSON, or there is more in it than one text; the message names `what` it is.
    """
    if text.lstrip().startswith("{"):
        try:
            return from_json(text, dict)
        except Undecodable as error:
            raise Invalid(f"{what} is not JSON: {error}") from error
    name = _only_text(schema)
    if name is None:
        raise Invalid(f"{what} is more than one text: send it as a JSON object, as its schema says")
    return {name: text}


def _only_text(schema: Mapping[str, Any]) -> str | None:
    """The property that a text can only be: the one that is required, or the only one that is a text."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    texts = [name for name, of_property in properties.items() if of_property.get("type") == "string"]
    required = set(schema.get("required", ()))
    candidates = [name for name in texts if name in required] or texts
    return candidates[0] if len(candidates) == 1 and required <= set(candidates) else None


QUESTIONS = RunTarget(
    kind="workflows", name=QUESTION, description="Answers questions from the documents, with sources."
)


async def find_askable(pool: Pool, kind: Kind, name: str) -> RunTarget:
    """Return what a message can ask.

    Raises:
        NotFound: there is none of that name, or it needs more than a message.
    """
    found = await find_run_target(pool, kind, name)
    if not found.can_be_asked:
        raise NotFound(f"agent {name} takes more than a question: workflows ask it")
    return found


async def list_askable(pool: Pool) -> list[RunTarget]:
    """Return all that a message can ask, in the order of `list_run_targets`."""
    return [one for one in await list_run_targets(pool) if one.can_be_asked]


async def find_run_target(pool: Pool, kind: Kind, name: str) -> RunTarget:
    """Return one of them.

    Raises:
        NotFound: there is none of that name.
    """
    if kind == "workflows" and name == QUESTION:
        return QUESTIONS
    found = [one for one in await _of_kind(pool, kind, name) if one.name == name]
    if not found:
        raise NotFound(f"no {kind.removesuffix('s')} {name}: GET /v1/{kind} lists them")
    return found[0]


async def list_run_targets(pool: Pool) -> list[RunTarget]:
    """Return all of them: questions first, then by kind and name."""
    return [*await _of_kind(pool, "workflows", None), *await _of_kind(pool, "agents", None)]


async def list_run_target_names(pool: Pool) -> list[tuple[Kind, str]]:
    """Return kind and name of all of them, in the order of `list_run_targets`."""
    workflows = [name for name in await list_served_names(pool) if name != QUESTION]
    agents = [name for (name,) in await pool.fetch(_AGENT_NAMES)]
    return [("workflows", QUESTION), *(("workflows", one) for one in workflows), *(("agents", one) for one in agents)]


async def _of_kind(pool: Pool, kind: Kind, name: str | None) -> list[RunTarget]:
    if kind == "agents":
        rows = await pool.fetch(_SELECT_AGENTS, name)
        return [_askable(row, kind, f"The agent {row['name']} alone.") for row in rows]
    served = [row for row in await load_workflow_rows(pool, name) if row["served"]]
    newest = [next(group) for _, group in groupby(served, itemgetter("name"))]
    workflows = [_askable(row, kind, row["description"]) for row in newest]
    return [QUESTIONS, *(one for one in workflows if one.name != QUESTION)]


def _askable(row: asyncpg.Record, kind: Kind, description: str) -> RunTarget:
    return RunTarget(
        kind=kind,
        name=row["name"],
        description=description or row["name"],
        version=row["version"],
        input_schema=registered_schema(row["input_schema"]),
        output_schema=registered_schema(row["output_schema"]),
    )


def registered_schema(stored: str) -> dict[str, Any]:
    """Return a schema as it was registered, empty where it can't be one of an object: agents write their rows
    themselves, and one of them must not break the lists of all."""
    try:
        schema: dict[str, Any] = from_json(stored, dict)
        from_json(stored, _ObjectSchema)
    except Undecodable:
        return {}
    return schema
