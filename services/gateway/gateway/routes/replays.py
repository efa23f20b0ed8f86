"""The replay lab: recorded runs again, with another model, prompt, agent or index."""

from functools import partial

from fastapi import Request, Response

from gateway.auth.principal import OPERATORS
from gateway.guard import allow, guarded_router
from gateway.idempotency import IdempotencyClaim, IdempotencyKey
from gateway.live.admission import stream_access_check
from gateway.routes.documented import documented_errors
from gateway.runs import replaying
from gateway.runs.records import load_followed_run
from gateway.runs.waiting import wait_for_finished_run
from gateway.schemas.common import RunId
from gateway.schemas.replays import ReplayRequest
from gateway.schemas.runs import Run, RunAccepted
from gateway.services import Caller, Wired

router = guarded_router("runs")
_REPLAY = "/v1/runs/{run_id}/replays"


@router.post(
    _REPLAY,
    status_code=202,
    response_model=RunAccepted,
    responses={200: {"model": Run, "description": "Done within `wait_s`."}, **documented_errors(404, 409, 413, 415)},
)
@allow(OPERATORS, for_others=True)
async def replay_run(
    *,
    services: Wired,
    caller: Caller,
    request: Request,
    run_id: RunId,
    body: ReplayRequest,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> RunAccepted | Response:
    """Do a recorded run again, with its effects blocked, in a session of its own whose kind is `replay`.

    Tools return what they returned then; a call that the recording does not have is refused. The model is asked.
    """
    claim = IdempotencyClaim(caller, f"POST {_REPLAY}", idempotency_key, [run_id, body.model_dump(exclude={"wait_s"})])
    run = await replaying.start(services, run_id, body, claim)
    response.headers["Location"] = f"/v1/runs/{run.run_id}"
    if body.wait_s:
        read = partial(load_followed_run, services.pool, caller.tenant_id, run.run_id)
        admission = stream_access_check(request, caller, read)
        finished = await wait_for_finished_run(services, caller.tenant_id, run.run_id, body.wait_s, admission)
        if finished is not None:
            return Response(
                finished.model_dump_json(), 200, {"Location": response.headers["Location"]}, "application/json"
            )
    return run
