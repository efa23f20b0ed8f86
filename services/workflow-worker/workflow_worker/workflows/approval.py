"""`HumanInTheLoopWorkflow`: a risky action waits, for days if it must, for the right person.

analyze_action → (medium or high) send_approval_request → wait → execute_action. Outcomes: completed, rejected,
timeout; failed when the approved action itself fails, cancelled when it was called off first.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from flotilla.actions.arguments import check_action_args, load_action_argument_types
    from flotilla.approvals.ballot import Ballot, VoteRefusal
    from flotilla.contracts.approvals import (
        APPROVE_SIGNAL,
        DECIDE_UPDATE,
        GET_STATUS_QUERY,
        ActionState,
        ActionStatus,
        ActionStep,
        ApprovalRequirement,
        DecisionAnswer,
        DecisionRequest,
        content_hash,
    )
    from flotilla.contracts.json_types import JsonObject, JsonValue
    from flotilla.contracts.names import APPROVAL_WORKFLOW, action_workflow_id
    from flotilla.contracts.requests import ActionRequest
    from workflow_worker.activities.signatures import actions as call

from flotilla.workflows.delegation import ATTEMPT_TIMEOUT, UNLIMITED_RETRIES, failure_reason
from flotilla.workflows.interruption import wait_ignoring_cancellation, wait_then_cancel
from workflow_worker.workflows.approval_steps import (
    accept_any_args,
    approval_status_of_action,
    run_activity,
    try_to_deliver_webhook,
    update_id_of_handler,
    update_refused_error,
)

_EDITS_ARE_ASSESSED = "edits-are-assessed"
_SIGNATURES_ARE_CHECKED = "signatures-are-checked"
_EXECUTION_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=2), maximum_interval=timedelta(seconds=30), maximum_attempts=5
)


@workflow.defn(name=APPROVAL_WORKFLOW)
class HumanInTheLoopWorkflow:
    """One action, from its analysis to its end. Decisions may come at any time, also before the wait."""

    @workflow.init
    def __init__(self, request: ActionRequest) -> None:
        action_id = request.action_id or workflow.info().workflow_id.removeprefix(action_workflow_id(""))
        self._request = replace(request, action_id=action_id, session_id=request.session_id or action_id)
        self._status: ActionStatus = "running"
        self._step: ActionStep = "analyze_action"
        self._requirement: ApprovalRequirement | None = None
        self._ballot: Ballot | None = None
        self._result: JsonValue = None
        self._error: str | None = None
        self._recording = 0
        self._deliveries: set[asyncio.Task[None]] = set()

    @workflow.run
    async def run(self, _request: ActionRequest) -> ActionState:
        """Drives the action to its end and says which it was."""
        try:
            await self._run_action_to_end()
        except (ActivityError, asyncio.CancelledError) as error:
            # A cancellation that meets an activity comes as that activity's failure.
            if failure_reason(error).cancelled:
                await wait_ignoring_cancellation(self._cancel_action())
                await wait_ignoring_cancellation(self._finish_action())
                raise asyncio.CancelledError from error
            self._set_failed(error)
        await wait_ignoring_cancellation(self._finish_action())
        return self._action_state()

    async def _run_action_to_end(self) -> None:
        requirement = await self._analyze_action()
        if requirement.required and not await self._request_and_await_approval(requirement):
            return
        if self._request.task_id:
            self._status = "approved"  # a gated tool: `settle_calls` records the outcome of the call
            return
        self._step = "execute_action"
        # From here on a cancellation is too late: the effect may be out already.
        await wait_ignoring_cancellation(self._execute_action(requirement))

    async def _analyze_action(self) -> ApprovalRequirement:
        self._requirement = await wait_then_cancel(
            run_activity(call.ANALYZE_ACTION, self._request, ApprovalRequirement, timeout=timedelta(seconds=60))
        )
        if self._requirement.args is not None:
            self._request = replace(self._request, args=self._requirement.args)
        return self._requirement

    async def _request_and_await_approval(self, requirement: ApprovalRequirement) -> bool:
        self._step = "send_approval_request"
        requested_at = workflow.now()
        deadline = requested_at + timedelta(seconds=requirement.deadline_s)
        reminder = requirement.reminder_s and requested_at + timedelta(seconds=requirement.reminder_s)
        request = run_activity(
            call.SEND_APPROVAL_REQUEST,
            call.ApprovalRequest(
                action=self._request,
                workflow_id=workflow.info().workflow_id,
                requirement=requirement,
                deadline=deadline,
                reminder=reminder or None,
            ),
            call.WebhookBatch,
        )
        ballot = Ballot(
            approval_id=self._request.action_id,
            action=self._request.action,
            args=self._request.args,
            requirement=requirement,
            requested_by=self._request.requested_by,
            on_behalf_of=self._request.on_behalf_of,
            deadline=deadline,
            requested_through=tuple(self._request.requested_through),
            requested_by_service=self._request.requested_by_service,
        )
        try:
            self._deliver_webhooks(await wait_then_cancel(request))
        finally:
            self._ballot = ballot  # not before it is in the inbox; also when the action is called off meanwhile
        self._step, self._status = "wait_for_approval", "awaiting_approval"
        await self._wait_for_verdict(requirement)
        return self._record_verdict_outcome()

    async def _wait_for_verdict(self, requirement: ApprovalRequirement) -> None:
        if requirement.reminder_s and not await self._wait_until_decided(timedelta(seconds=requirement.reminder_s)):
            self._deliver_webhooks(
                await wait_then_cancel(run_activity(call.REMIND, self._action_reference(), call.WebhookBatch))
            )
        if not await self._wait_until_decided(self._open_ballot().deadline - workflow.now()):
            expired = self._open_ballot().close_at_deadline()
            if not self._open_ballot().is_vote_final:
                self._ballot = expired
                await self._record_in_inbox(
                    call.RECORD_VERDICT, call.VoteClosure(key=self._action_reference(), ballot=expired)
                )
        # What was decided is on record before anything happens because of it.
        await workflow.wait_condition(lambda: self._recording == 0)

    async def _wait_until_decided(self, time: timedelta) -> bool:
        try:
            await workflow.wait_condition(lambda: self._open_ballot().is_vote_final, timeout=max(time, timedelta()))
        except TimeoutError:
            return self._open_ballot().is_vote_final
        return True

    def _record_verdict_outcome(self) -> bool:
        status = self._open_ballot().status
        if status == "approved":
            self._status = "running"
            return True
        self._status = "timeout" if status == "timeout" else "rejected"
        return False

    async def _execute_action(self, requirement: ApprovalRequirement) -> None:
        execution = self._make_execution(required=requirement.required)
        if requirement.required and workflow.patched(_SIGNATURES_ARE_CHECKED):
            # As long as it takes: the log may be behind. The executor looks again, just before the effect.
            await run_activity(call.CHECK_VOTES, execution, None)
        executed = await run_activity(
            call.EXECUTE_ACTION,
            execution,
            call.ExecutionResult,
            timeout=timedelta(minutes=5),
            heartbeat=timedelta(seconds=20),
            retries=_EXECUTION_RETRIES,
        )
        self._result, self._status = executed.value, "completed"

    def _make_execution(self, *, required: bool) -> "call.ActionExecution":
        args, requirement = self._current_args(), self._requirement
        return call.ActionExecution(
            key=self._action_reference(),
            action=self._request.action,
            args=args,
            content_hash=content_hash(self._request.action, args),
            approval_required=required,
            requested_by=self._request.requested_by,
            on_behalf_of=self._request.on_behalf_of,
            risk_level=self._ballot.requirement.risk_level
            if self._ballot
            else requirement.risk_level
            if requirement
            else "low",
        )

    def _set_failed(self, error: BaseException) -> None:
        trouble = failure_reason(error)
        self._status, self._error = "failed", f"{trouble.type}: {trouble.message}"

    async def _cancel_action(self) -> None:
        self._status = "cancelled"
        if self._ballot is None or self._ballot.is_vote_final:
            return
        self._ballot = self._ballot.close_by_cancellation()
        await self._record_in_inbox(
            call.RECORD_VERDICT, call.VoteClosure(key=self._action_reference(), ballot=self._ballot)
        )

    async def _finish_action(self) -> None:
        for delivery in self._deliveries:
            delivery.cancel()
        self._step = "finished"
        await workflow.wait_condition(lambda: self._recording == 0)
        await run_activity(
            call.FINISH_ACTION, call.FinishedAction(key=self._action_reference(), state=self._action_state()), None
        )
        await workflow.wait_condition(workflow.all_handlers_finished)

    @workflow.query(name=GET_STATUS_QUERY)
    def get_status(self) -> ActionState:
        """Where the action stands."""
        return self._action_state()

    @workflow.update(name=DECIDE_UPDATE)
    async def decide(self, attempt: DecisionRequest) -> DecisionAnswer:
        """Counts a decision; answers once it is stored.

        Raises:
            ApplicationError: its type is a key of `REFUSAL_STATUS`.
        """
        await self._wait_until_vote_open()
        if attempt.decision == "edit" and workflow.patched(_EDITS_ARE_ASSESSED):
            return await self._count_edit(attempt, update_id_of_handler())
        # An edit in the history of a worker before the patch: its arguments were checked by the validator.
        refusal = self._why_attempt_refused(attempt, accept_any_args)
        if refusal is not None:
            raise update_refused_error(refusal)
        update_id = update_id_of_handler()
        if workflow.patched(_SIGNATURES_ARE_CHECKED):
            attempt = await self._check_attempt_signature(attempt)
        return await self._count_attempt(attempt, update_id)

    async def _check_attempt_signature(self, attempt: DecisionRequest) -> DecisionRequest:
        check = call.VoteCheck(execution=self._make_execution(required=True), attempt=attempt)
        checked: call.CheckedVote = await workflow.execute_local_activity(
            call.CHECK_VOTE,
            check,
            result_type=call.CheckedVote,
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=UNLIMITED_RETRIES,
        )
        # Another vote may have come meanwhile.
        refusal = checked.refusal or self._why_attempt_refused(attempt, self._check_args)
        if refusal is not None:
            raise update_refused_error(refusal)
        return replace(attempt, receipt=checked.receipt)

    async def _count_edit(self, attempt: DecisionRequest, update_id: str) -> DecisionAnswer:
        """Count an edit under what policy asks for the new arguments, never for less risk than before.

        The arguments are checked by the activity, whose answer is in the history: a replay needs no installed actions.
        """
        refusal = self._why_attempt_refused(attempt, accept_any_args)
        if refusal is not None:
            raise update_refused_error(refusal)
        requirement = await self._assess_edit(attempt)
        attempt = replace(attempt, args=requirement.args)
        refusal = self._why_attempt_refused(attempt, accept_any_args)  # another vote may have come meanwhile
        if refusal is not None:
            raise update_refused_error(refusal)
        return await self._count_attempt(attempt, update_id, requirement)

    async def _assess_edit(self, attempt: DecisionRequest) -> ApprovalRequirement:
        level = self._open_ballot().requirement.risk_level
        edited = replace(self._request, args=attempt.args or {}, risk_level=level)
        try:
            return await run_activity(call.ASSESS_EDIT, edited, ApprovalRequirement, timeout=timedelta(seconds=60))
        except ActivityError as error:
            trouble = failure_reason(error)
            raise update_refused_error(VoteRefusal("InvalidArgs", trouble.message)) from error

    @decide.validator
    def _check_decision(self, attempt: DecisionRequest) -> None:
        """Refuses before anything reaches the history; the handler looks again, since another vote may come between.

        Only here may the answer depend on the actions that are installed: validators are not replayed.
        """
        is_open = self._ballot is not None or self._step == "finished"
        refusal = self._why_attempt_refused(attempt, self._check_args) if is_open else None
        if refusal is not None:
            raise update_refused_error(refusal)

    @workflow.signal(name=APPROVE_SIGNAL)
    async def approve(self, approved: bool, reviewer: str) -> None:
        """Counts only where policy allows signals and one vote is enough: nobody proved who sent it."""
        await self._wait_until_vote_open()
        found = await run_activity(
            call.LOOK_UP_REVIEWER,
            call.ReviewerQuery(tenant_id=self._request.tenant_id, subject=reviewer),
            call.ReviewerRoles,
        )
        attempt = DecisionRequest(
            approval_id=self._request.action_id,
            attempt_id=str(workflow.uuid4()),
            subject=reviewer,
            roles=found.roles,
            is_person=found.is_person,
            decision="approve" if approved else "reject",
            content_hash=content_hash(self._request.action, self._current_args()),
            reason=None if approved else "by signal",
            authenticated=False,
        )
        refusal = self._why_signal_refused() or self._why_attempt_refused(attempt, accept_any_args)
        if refusal is None:
            await self._count_attempt(attempt, attempt.attempt_id)
        elif self._ballot is not None:
            await self._record_in_inbox(
                call.RECORD_REFUSAL,
                call.RefusedDecision(
                    key=self._action_reference(),
                    attempt=attempt,
                    update_id=attempt.attempt_id,
                    refusal=refusal,
                    policy_version=self._ballot.requirement.policy_version,
                ),
            )

    async def _wait_until_vote_open(self) -> None:
        await workflow.wait_condition(lambda: self._ballot is not None or self._step in ("execute_action", "finished"))

    def _why_attempt_refused(
        self, attempt: DecisionRequest, check_args: Callable[[str, JsonObject], None]
    ) -> VoteRefusal | None:
        if self._ballot is None:
            return VoteRefusal("AlreadyDecided", f"action {self._request.action_id} needs no approval any more")
        return self._ballot.why_not_counted(attempt, workflow.now(), check_args)

    def _check_args(self, action: str, args: JsonObject) -> None:
        if action in load_action_argument_types() and not self._request.task_id:
            check_action_args(action, args)

    def _why_signal_refused(self) -> VoteRefusal | None:
        requirement = self._requirement
        if requirement is None or not requirement.allow_signal or requirement.quorum != 1:
            return VoteRefusal("SignalNotAllowed", "policy does not accept signals for this action")
        return None

    async def _count_attempt(
        self, attempt: DecisionRequest, update_id: str, requirement: ApprovalRequirement | None = None
    ) -> DecisionAnswer:
        # No await between the last look and this line: of two votes in the same instant one is first.
        ballot = self._open_ballot().with_counted_vote(attempt, requirement)
        self._ballot = ballot
        await self._record_in_inbox(
            call.RECORD_DECISION,
            call.CountedDecision(key=self._action_reference(), attempt=attempt, update_id=update_id, ballot=ballot),
        )
        return ballot.answer_to_voter(attempt)

    async def _record_in_inbox(self, activity: str, message: object) -> None:
        """Write to the inbox, however long the database is down, and even if the workflow is cancelled meanwhile."""
        self._recording += 1
        try:
            await wait_ignoring_cancellation(
                workflow.execute_local_activity(
                    activity, message, start_to_close_timeout=ATTEMPT_TIMEOUT, retry_policy=UNLIMITED_RETRIES
                )
            )
        finally:
            self._recording -= 1

    def _deliver_webhooks(self, batch: "call.WebhookBatch") -> None:
        for delivery_id in batch.delivery_ids:
            task = asyncio.create_task(
                try_to_deliver_webhook(call.WebhookDelivery(key=batch.key, delivery_id=delivery_id))
            )
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)

    def _open_ballot(self) -> Ballot:
        assert self._ballot is not None  # noqa: S101 - only called once the vote is open
        return self._ballot

    def _current_args(self) -> JsonObject:
        return self._ballot.args if self._ballot is not None else self._request.args

    def _action_reference(self) -> "call.ActionReference":
        request = self._request
        return call.ActionReference(
            tenant_id=request.tenant_id, action_id=request.action_id, session_id=request.session_id
        )

    def _action_state(self) -> ActionState:
        ballot, requirement = self._ballot, self._requirement
        return ActionState(
            action_id=self._request.action_id,
            status=self._status,
            current_step=self._step,
            approval_status=approval_status_of_action(ballot, requirement, self._status),
            result=self._result,
            error=self._error,
            risk_level=requirement.risk_level if requirement else None,
            content_hash=content_hash(self._request.action, self._current_args()),
            args=self._current_args(),
            votes=list(ballot.votes) if ballot else [],
            deadline=ballot.deadline.isoformat() if ballot else None,
        )
