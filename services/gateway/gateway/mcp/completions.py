"""Ids that a client's user is typing: of templates of resources, and of prompts' arguments."""

from typing import Any

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import INVALID_PARAMS, CompleteRequestParams, CompleteResult, Completion, ResourceTemplateReference

from gateway.mcp.prompts import REVIEW_SESSION
from gateway.mcp.resources import RESOURCE_KINDS, read_answer

_MOST = 100
"""The protocol's limit."""
_COMPLETED = {(one.template, one.id_member): one for one in RESOURCE_KINDS.values()} | {
    (REVIEW_SESSION, "session_id"): RESOURCE_KINDS["sessions"]
}
"""By template or prompt, and by the argument's name."""
Context = ServerRequestContext[Any, Any]


def add_completions(server: Server[Any]) -> None:
    """Have `server` complete ids."""
    server.add_request_handler("completion/complete", CompleteRequestParams, _complete)


async def _complete(context: Context, params: CompleteRequestParams) -> CompleteResult:
    """Ids that begin like what was typed, of the newest."""
    typed, ref = params.argument.value, params.ref
    of = str(ref.uri) if isinstance(ref, ResourceTemplateReference) else ref.name
    kind = _COMPLETED.get((of, params.argument.name))
    if kind is None:
        raise MCPError(
            INVALID_PARAMS,
            "nothing to complete: resources/templates/list and prompts/list name the arguments, and those that are ids "
            "can be completed",
        )
    query = {"limit": str(_MOST), **({kind.search: typed} if kind.search and typed else {})}
    found = await read_answer(context, f"/v1/{kind.name}", query)
    ids = [str(one[kind.id_member]) for one in found[kind.name]]
    values = [one for one in ids if one.startswith(typed)]
    return CompleteResult(completion=Completion(values=values, has_more=found["next_cursor"] is not None))
