"""Models: what of the fleet can be asked, by the names that clients use."""

from flotilla.contracts.errors import NotFound
from flotilla.postgres import Pool
from gateway.openai.errors import ModelNotFound
from gateway.runs.askable import Kind, RunTarget, find_askable, list_askable

QUESTIONS = "flotilla/rag"
"""The model that answers from the documents."""
_OWNER = "flotilla"
_AGENT = "agent"


def model_id(of: RunTarget) -> str:
    """Return the name of a model: `flotilla/WORKFLOW`, or `flotilla/agent/AGENT`."""
    return f"{_OWNER}/{of.name}" if of.kind == "workflows" else f"{_OWNER}/{_AGENT}/{of.name}"


async def model_ids(pool: Pool) -> list[str]:
    """Return the names of all models."""
    return [model_id(one) for one in await list_askable(pool)]


async def find_model_target(pool: Pool, model: str) -> RunTarget:
    """Return what a model is.

    Raises:
        ModelNotFound: there is none of that name.
    """
    owner, *rest = model.split("/")
    kind: Kind = "agents" if len(rest) == 2 and rest[0] == _AGENT else "workflows"  # noqa: PLR2004
    if owner == _OWNER and len(rest) == (2 if kind == "agents" else 1):
        try:
            return await find_askable(pool, kind, rest[-1])
        except NotFound:
            pass
    raise ModelNotFound(f"no model {model[:200]}: GET /openai/v1/models lists them, such as {QUESTIONS}")
