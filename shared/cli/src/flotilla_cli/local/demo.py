"""`flotilla demo`: the whole story once, on real servers, with what each step proves."""

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from flotilla_cli.errors import CliError, Misuse, NotFound
from flotilla_cli.events import print_events
from flotilla_cli.gateway import GatewayClient
from flotilla_cli.local.stack import print_addresses, start_stack
from flotilla_cli.local.stores import read_event_copies
from flotilla_cli.printing import TableColumn, print_table, say
from flotilla_cli.target import GatewayTarget, read_local_keys
from flotilla_cli.uploading import DocumentUploader, find_documents
from flotilla_cli.verbs.ask import follow_run
from flotilla_cli.verbs.sessions import print_state
from flotilla_devstack import StackStatus, UpOptions

SAMPLES = "corvane-handbook"
QUESTION = "Who may approve a refund above 500 euros?"
SECOND_QUESTION = "When is an approved refund sent to the bank?"
OTHER_QUESTION = "What has to be written down for a refund?"
_ACTION_WITHIN_S = 60.0
_POLL_S = 0.1


@dataclass(frozen=True)
class DemoPeople:
    """The gateway, as each of the local stack's people sees it."""

    alice: GatewayClient
    bob: GatewayClient


def run_demo(options: UpOptions) -> None:
    """Run every step; a second run works as well as the first.

    Raises:
        CliError: a step did not do what it should.
    """
    print_step_heading("The stack", "real servers and the seven services, as local processes")
    status = start_stack(options)
    say(f"{len(status['processes'])} processes run; the API is at {status['url']}")
    with _people(status) as people:
        _tell(people, options.state)
    print_step_heading("Look around", "the stack goes on running; flotilla down stops it")
    print_addresses(status)


def _tell(people: DemoPeople, state: Path) -> None:
    session_id = f"demo-{secrets.token_hex(3)}"
    _load_samples(people.alice)
    print_step_heading("A question", "Temporal drives it, the research and the writer agent do it, tokens stream live")
    run = _ask(people.alice, session_id, QUESTION)
    after_first = _head_seq(people.alice, session_id)
    print_step_heading("A second one", "the same session: earlier turns are part of the prompt")
    _ask(people.alice, session_id, SECOND_QUESTION)
    _show_log(people.alice, session_id, state)
    _travel(people.alice, session_id, after_first)
    _fork(people.alice, session_id, after_first)
    _approve(people, run["run_id"])


@contextmanager
def _people(status: StackStatus) -> Iterator[DemoPeople]:
    keys = read_local_keys(Path(status["keys_file"]))
    with ExitStack() as stack:
        alice, bob = (
            stack.enter_context(GatewayClient(GatewayTarget(status["url"], keys[name], name)))
            for name in ("alice", "bob")
        )
        yield DemoPeople(alice, bob)


def print_step_heading(title: str, what: str) -> None:
    """The begin of a step."""
    say()
    say(f"━━ {title}: {what}", style="bold cyan")


def print_equivalent_command(text: str) -> None:
    """How to do the same by hand."""
    say(f"$ flotilla {text}", style="dim")


def _load_samples(gateway: GatewayClient) -> None:
    print_step_heading("Documents", "the handbook of a fictional freight company: Markdown, text and HTML")
    with as_file(files("flotilla_cli") / "samples") as folder:
        print_equivalent_command(f"documents add {folder} --base {SAMPLES}")
        report = DocumentUploader(gateway).upload(find_documents([folder], SAMPLES).found)
    if report.failed:
        raise CliError("; ".join(f"{failure.path}: {failure.error}" for failure in report.failed))
    passages = sum(one.passages for one in (*report.added, *report.unchanged))
    say(f"{len(report.added)} loaded, {len(report.unchanged)} unchanged, {passages} passages")


def _ask(gateway: GatewayClient, session_id: str, question: str) -> dict[str, Any]:
    print_equivalent_command(f'ask "{question}" --session {session_id}')
    run = gateway.post(f"/sessions/{session_id}/runs", {"query": question})
    finished = follow_run(gateway, run["run_id"])
    if finished["status"] != "success":
        raise CliError(f"run {run['run_id']} ended with status {finished['status']}: {finished.get('error')}")
    _check_sources(gateway, finished["result"])
    return finished


def _check_sources(gateway: GatewayClient, result: dict[str, Any]) -> None:
    cited = {source["document_id"] for source in result["sources"]}
    known = {
        document["document_id"] for document in gateway.list_all_pages("/documents", "documents", 10_000)["documents"]
    }
    if not cited:
        raise CliError("the answer cites nothing, though the handbook has the answer")
    if cited - known:
        raise CliError(f"the answer cites documents that do not exist: {', '.join(sorted(cited - known))}")
    say(f"Every cited document exists ({len(cited)} checked).")


def _head_seq(gateway: GatewayClient, session_id: str) -> int:
    return int(gateway.get(f"/sessions/{session_id}")["head_seq"])


def _show_log(gateway: GatewayClient, session_id: str, state: Path) -> None:
    print_step_heading("The history", "read back from the audit projection, and compared with Kafka and the outbox")
    print_equivalent_command(f"sessions events {session_id}")
    head_seq = _head_seq(gateway, session_id)
    stores = read_event_copies(state, session_id, head_seq)
    events = stores.projected_events()
    print_events(events, "")
    problems = stores.disagreements(1, head_seq)
    if list(gateway.list_session_events(session_id)) != events:
        problems.append("the API shows other events than the projection")
    if problems:
        raise CliError(f"the stores do not agree on session {session_id}: {'; '.join(problems)}")
    say()
    say(f"seq 1 to {head_seq} without a gap; the API shows the same")
    kafka = f"Kafka partition {stores.partition}: {len(stores.in_kafka)} events"
    say(f"{kafka}, projection: {len(events)}, the same bytes; outbox: {stores.waiting} waiting")


def _travel(gateway: GatewayClient, session_id: str, seq: int) -> None:
    print_step_heading("Time travel", f"the same session as it was at event {seq}, after the first answer")
    print_equivalent_command(f"sessions state {session_id} --at-seq {seq}")
    then = gateway.get(f"/sessions/{session_id}/state", at_seq=seq)
    now = gateway.get(f"/sessions/{session_id}/state")
    print_state(then)
    say(f"Then: {len(then['messages'])} messages. Now, at event {now['at_seq']}: {len(now['messages'])}.")
    if not len(then["messages"]) < len(now["messages"]):
        raise CliError(f"the state of {session_id} at event {seq} is not an earlier one")


def _fork(gateway: GatewayClient, session_id: str, at_seq: int) -> None:
    print_step_heading("A fork", "another future from that point; the original stays untouched")
    before = _head_seq(gateway, session_id)
    print_equivalent_command(f"sessions fork {session_id} --at-seq {at_seq}")
    fork_id = gateway.post(f"/sessions/{session_id}/fork", {"at_seq": at_seq})["session_id"]
    _ask(gateway, fork_id, OTHER_QUESTION)
    after = _head_seq(gateway, session_id)
    if after != before:
        raise CliError(f"the fork changed its parent {session_id}: event {before} was its last, now it is {after}")
    say(f"It shares events 1 to {at_seq} and ends at {_head_seq(gateway, fork_id)}; its parent still ends at {before}.")


def _approve(people: DemoPeople, run_id: str) -> None:
    print_step_heading("An approval", "alice asks, alice may not approve, bob does, then it runs")
    body = {"action": "publish_answer", "description": "Publish the answer on refunds", "risk_level": "medium"}
    print_equivalent_command(f"actions submit --action publish_answer --risk medium --arg run_id={run_id} …")
    try:
        action = people.alice.post("/actions", {**body, "args": {"run_id": run_id}})
    except NotFound:
        say("This server offers no governed actions.")
        return
    approval = _wait_for_approval(people.bob, action["action_id"])
    decision = {"decision": "approve", "content_hash": approval["content_hash"]}
    path = f"/approvals/{approval['approval_id']}/decision"
    say(f"Will be executed: {approval['action']} {approval['args']}, risk {approval['risk_level']}")
    _refused(people.alice, path, decision)
    print_equivalent_command(
        f"approvals approve {approval['approval_id']} --content-hash {approval['content_hash'][:12]}… --as bob"
    )
    people.bob.post(path, decision)
    done = _wait_for_end(people.alice, action["action_id"])
    print_table([done], _ACTION, "")


def _refused(gateway: GatewayClient, path: str, decision: dict[str, Any]) -> None:
    try:
        gateway.post(path, decision)
    except Misuse:
        raise
    except CliError as error:
        say(f"alice tries: {str(error).splitlines()[0]}")
        return
    raise CliError("alice could approve her own request")


def _wait_for_approval(gateway: GatewayClient, action_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + _ACTION_WITHIN_S
    while time.monotonic() < deadline:
        try:
            approval: dict[str, Any] = gateway.get(f"/approvals/{action_id}")
        except NotFound:
            time.sleep(_POLL_S)
        else:
            return approval
    raise CliError(f"no approval was requested for action {action_id}", "flotilla logs workflow-worker says why")


def _wait_for_end(gateway: GatewayClient, action_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + _ACTION_WITHIN_S
    while time.monotonic() < deadline:
        action: dict[str, Any] = gateway.get(f"/actions/{action_id}")
        if action["status"] == "completed":
            return action
        if action["status"] not in ("pending", "running", "awaiting_approval"):
            raise CliError(f"action {action_id} ended as {action['status']}: {action.get('error')}")
        time.sleep(_POLL_S)
    raise CliError(f"action {action_id} did not end within {_ACTION_WITHIN_S:g} s")


_ACTION = tuple(
    TableColumn(name.replace("_", " "), name)
    for name in ("action_id", "status", "current_step", "approval_status", "result")
)
