// @vitest-environment happy-dom
import { describe, expect, it } from "vitest";
import type { Approval, Me, SessionEvent, StateDiff, Step } from "../src/api/types";
import { approvalsOf, barredDecision, barredFrom, inOrder } from "../src/lib/deciding";
import { actorOf, holds, kindOf, summary, traceIdOf } from "../src/lib/events";
import { ago, bytes, countdown, duration, shortId } from "../src/lib/format";
import { match, safeNext } from "../src/lib/router";
import { callsOf, linesOf } from "../src/lib/state-view";
import { cut, oneLine, unsupportedIn } from "../src/lib/text";
import { waterfall } from "../src/lib/waterfall";

const NOW = Date.parse("2026-01-01T12:00:00Z");
const at = (seconds: number) => new Date(NOW + seconds * 1000).toISOString();

describe("formats", () => {
  it("count a deadline down to the second", () => {
    expect(countdown(at(3725), NOW)).toEqual({ text: "01:02:05", isOver: false, isUrgent: false });
    expect(countdown(at(90_000), NOW).text).toBe("1 d 01:00:00");
    expect(countdown(at(59), NOW).isUrgent).toBe(true);
    expect(countdown(at(0), NOW).isOver).toBe(true);
  });

  it.each([
    [0.25, "250 µs"],
    [4.14, "4.1 ms"],
    [312, "312 ms"],
    [1240, "1.24 s"],
    [125_000, "2 min 5 s"],
    [7_500_000, "2 h 5 min"],
    [90_000_000, "1 d 1 h"],
  ])("show %d ms as %s", (ms, text) => expect(duration(ms)).toBe(text));

  it("tell ages", () => {
    expect(ago(at(-3), NOW)).toBe("now");
    expect(ago(at(-180), NOW)).toBe("3 minutes ago");
    expect(ago(at(7200), NOW)).toBe("in 2 hours");
  });

  it("shorten ids so that two of one moment still differ, and leave names whole", () => {
    expect(shortId("01a2190a-463d-7160-a9a8-818dc201676b")).toBe("01a2190a…01676b");
    expect(shortId("handbook")).toBe("handbook");
    expect(bytes(2990)).toBe("3.0 kB");
  });
});

describe("an answer", () => {
  it("shows the sentences that its sources do not support", () => {
    const answer = "🚢 sail [1]. They fly [1]. Who knows.";
    const statements = [
      { start: 0, end: 11, supported: true },
      { start: 12, end: 25, supported: false },
      { start: 26, end: 36, supported: null },
    ];
    expect(unsupportedIn(answer, statements)).toEqual(["They fly [1]."]);
  });
});

describe("a cited passage", () => {
  it("is cut by characters, where JavaScript counts UTF-16 units", () => {
    expect(cut("a🚢b🚢c", 1, 4)).toEqual({ before: "a", passage: "🚢b🚢", after: "c" });
  });

  it("ends where the text ends", () => {
    expect(cut("short", 2, 99)).toEqual({ before: "sh", passage: "ort", after: "" });
    expect(oneLine("a\n  b\tc")).toBe("a b c");
  });
});

function event(kind: string, data: SessionEvent["data"]): SessionEvent {
  return { id: "e", type: `flotilla.session.${kind}.v1`, source: "/agents/research", subject: "s", time: at(0), sequence: 1, data };
}

describe("events in a line", () => {
  it.each([
    [event("message", { role: "user", content: "Who?\nAnd when?" }), "user: Who? And when?"],
    [event("tool_call", { tool: "search", args: { q: "refund", k: 5 } }), 'search(q: "refund", k: 5)'],
    [event("tool_result", { tool: "search", ok: true, duration_ms: 17.2, result: [1, 2] }), "search: 2 items in 17 ms"],
    [event("tool_result", { tool: "search", ok: false, duration_ms: 2, error: "gone" }), "search failed in 2.0 ms: gone"],
    [event("state_change", { change: "run_started", status: "running", set: { a: 1 }, unset: ["b"] }), "run started · status running · sets a · unsets b"],
    [event("state_change", { change: "run_started", details: { user_id: "eve", acted_by: "shop" } }), "run started · eve, through shop"],
    [event("state_change", { change: "run_started", details: { user_id: "eve" } }), "run started"],
    [
      event("state_change", { change: "action_submitted", details: { requested_by: "shop", on_behalf_of: "eve" } }),
      "action submitted · eve, through shop",
    ],
    [event("error", { type: "ValueError", message: "no" }), "ValueError: no"],
    [event("unheard_of", {}), "flotilla.session.unheard_of.v1"],
  ])("%#", (one, line) => expect(summary(one)).toBe(line));

  it("say who, what kind, and hold what is looked for", () => {
    const call = event("tool_call", { tool: "search", agent: "research", args: { q: "Refund" } });
    expect(kindOf(call)).toBe("tool_call");
    expect(kindOf(event("unheard_of", {}))).toBeNull();
    expect(actorOf(call)).toBe("research");
    expect(holds(call, "refund SEARCH")).toBe(true);
    expect(holds(call, "refund write")).toBe(false);
  });

  it("know their trace", () => {
    expect(traceIdOf("00-e44adc064b24590697d26146f94e6a8c-63311b3a82db6ace-03")).toBe("e44adc064b24590697d26146f94e6a8c");
    expect(traceIdOf("nonsense")).toBeNull();
    expect(traceIdOf(undefined)).toBeNull();
  });
});

describe("states and differences", () => {
  const call = (seq: number, call_id: string) => ({ seq, time: at(0), run_id: null, tool: "t", call_id, agent: "a", args: {} });
  const result = (seq: number, call_id: string) => ({ ...call(seq, call_id), ok: true, duration_ms: 1, result: null, error: null });
  const message = (seq: number) => ({ seq, time: at(0), source: "/x", run_id: null, role: "user", content: `m${seq}`, sources: [] });

  it("pair calls with their results", () => {
    const calls = callsOf({ tool_calls: [call(1, "a"), call(2, "b")], tool_results: [result(3, "a")] });
    expect(calls.map((one) => one.result?.seq ?? null)).toEqual([3, null]);
  });

  it("list what a rollback took away before what came after it, by seq", () => {
    const diff: StateDiff = {
      session_id: "s",
      from_seq: 4,
      to_seq: 9,
      status: { before: "running", after: "idle" },
      variables: { x: { before: null, after: 1 } },
      messages_added: [message(8)],
      messages_removed: [message(3)],
      tool_calls_added: [call(6, "c")],
      tool_calls_removed: [],
      tool_results_added: [result(7, "c")],
      tool_results_removed: [],
      errors_added: [],
      errors_removed: [],
    };
    expect(linesOf(diff).map((line) => ("seq" in line ? `${line.isAdded ? "+" : "-"}${line.seq} ${line.kind}` : line.kind))).toEqual([
      "status",
      "variable",
      "-3 message",
      "+6 call",
      "+7 result",
      "+8 message",
    ]);
  });
});

describe("the waterfall", () => {
  const step = (part: Partial<Step>): Step => ({
    kind: "workflow_step",
    step: "begin_run",
    status: "done",
    attempt: 1,
    agent: null,
    task_id: null,
    model: null,
    input_tokens: null,
    output_tokens: null,
    error: null,
    started_at: at(0),
    finished_at: at(1),
    duration_ms: 1000,
    ...part,
  });

  it("puts each call under the step that it was done for", () => {
    const { bars, totalMs } = waterfall(
      [
        step({ kind: "llm_call", step: "call 0", task_id: "r.write", started_at: null, finished_at: at(4), duration_ms: 1000 }),
        step({ kind: "delegation", step: "write", task_id: "r.write", started_at: at(2), finished_at: at(4) }),
        step({ step: "delegate", task_id: "r.write", started_at: at(1), finished_at: at(5), duration_ms: 4000 }),
        step({ step: "begin_run" }),
      ],
      NOW,
    );
    expect(bars.map((bar) => `${bar.depth} ${bar.label}`)).toEqual(["0 begin run", "0 delegate", "1 write", "2 Model call 0"]);
    expect(totalMs).toBe(5000);
    expect(bars[3]).toMatchObject({ left: 0.6, width: 0.2 });
  });

  it("shows a fan-out: calls at the same time, each under the step that waits for it", () => {
    const asks = ["a", "b", "c"].flatMap((name, at_) => [
      step({ step: `ask ${name}`, task_id: `r.${name}`, started_at: at(1), finished_at: at(3 + at_), duration_ms: null }),
      step({ kind: "delegation", step: "research", task_id: `r.${name}`, started_at: at(1), finished_at: at(3 + at_) }),
    ]);
    const { bars, totalMs } = waterfall([step({ step: "begin_run" }), ...asks], NOW);
    expect(bars.map((bar) => `${bar.depth} ${bar.label}`)).toEqual([
      "0 begin run",
      ...["0 ask a", "1 research", "0 ask b", "1 research", "0 ask c", "1 research"],
    ]);
    expect(bars.slice(1).map((bar) => bar.left)).toEqual([0.2, 0.2, 0.2, 0.2, 0.2, 0.2]);
    expect(bars.slice(1).map((bar) => Math.round(bar.width * totalMs))).toEqual([2000, 2000, 3000, 3000, 4000, 4000]);
  });

  it("lets what still runs reach to now", () => {
    const [bar] = waterfall([step({ status: "running", finished_at: null, duration_ms: null })], NOW + 10_000).bars;
    expect(bar).toMatchObject({ left: 0, width: 1, durationMs: null });
  });

  it("shows hops of a slip, and delegations without Temporal's history", () => {
    const steps = [
      step({ kind: "delegation", step: "research", task_id: "t" }),
      step({ kind: "delegation", step: "write", task_id: "t~1", started_at: at(1), finished_at: at(2) }),
    ];
    expect(waterfall(steps, NOW).bars.map((bar) => bar.depth)).toEqual([0, 0]);
    expect(waterfall([step({ task_id: "t" }), ...steps], NOW).bars.map((bar) => bar.depth)).toEqual([0, 1, 1]);
    const later = step({ task_id: "t#2", started_at: at(2), finished_at: at(3) });
    expect(waterfall([later, ...steps], NOW).bars.map((bar) => bar.depth)).toEqual([0, 1, 1]);
    expect(waterfall([], NOW)).toEqual({ bars: [], totalMs: 0 });
  });
});

describe("who may decide", () => {
  const approval = (part: Partial<Approval> = {}): Approval => ({
    approval_id: "a",
    args_schema: null,
    session_id: "s",
    workflow_id: "w",
    run_id: null,
    task_id: null,
    action: "echo",
    description: "",
    args: {},
    content: "{}",
    content_hash: "h1",
    risk_level: "high",
    reasons: [],
    requested_by: "alice",
    on_behalf_of: null,
    roles: ["approver"],
    quorum: 2,
    exclude_requester: true,
    editable_args: ["text"],
    reason_required: ["reject"],
    policy_version: "1",
    signature: "none",
    signing_policy_version: "1",
    status: "pending",
    votes: [],
    created_at: at(-60),
    deadline_at: at(60),
    reminder_at: null,
    decided_at: null,
    outcome: null,
    ...part,
  });
  const bob: Me = { subject: "bob", tenant: "default", roles: ["approver"], kind: "person" };
  const vote = (subject: string, decision: "approve" | "edit", content_hash = "h1") => ({
    subject,
    decision,
    content_hash,
    reason: null,
    authenticated: true,
    signed: false,
  });

  it("lets a person with the role", () => {
    expect(barredFrom(approval(), bob, NOW)).toBeNull();
    expect(barredDecision(approval(), bob, "approve")).toBeNull();
  });

  it.each([
    ["the requester", approval({ requested_by: "bob" }), bob],
    ["the person behind it", approval({ on_behalf_of: "bob" }), bob],
    ["somebody without the role", approval(), { ...bob, roles: ["operator" as const] }],
    ["a service", approval(), { ...bob, kind: "service" as const }],
    ["everybody after a decision", approval({ status: "approved" }), bob],
    ["everybody after the deadline", approval({ deadline_at: at(-1) }), bob],
  ])("bars %s", (_who, one, me) => expect(barredFrom(one, me, NOW)).not.toBeNull());

  it("lets the requester where policy does", () => {
    expect(barredFrom(approval({ requested_by: "bob", exclude_requester: false }), bob, NOW)).toBeNull();
  });

  it("bars the last editor from approving, and a second vote for the same", () => {
    expect(barredDecision(approval({ votes: [vote("bob", "edit")] }), bob, "approve")).toMatch(/edited/);
    expect(barredDecision(approval({ votes: [vote("bob", "approve")] }), bob, "approve")).toMatch(/already/);
    expect(barredDecision(approval({ votes: [vote("bob", "approve", "h0")] }), bob, "approve")).toBeNull();
    expect(barredDecision(approval({ editable_args: [] }), bob, "edit")).not.toBeNull();
  });

  it("counts people, not votes, for what would be executed now", () => {
    const votes = [vote("bob", "approve"), vote("bob", "approve"), vote("carol", "approve", "h0")];
    expect(approvalsOf(approval({ votes }))).toBe(1);
  });

  it("puts the nearest deadline first, and what is decided last", () => {
    const ids = inOrder([
      approval({ approval_id: "late", deadline_at: at(100) }),
      approval({ approval_id: "done", status: "approved" }),
      approval({ approval_id: "soon", deadline_at: at(10) }),
    ]).map((one) => one.approval_id);
    expect(ids).toEqual(["soon", "late", "done"]);
  });
});

describe("addresses", () => {
  it("match their patterns, with ids decoded", () => {
    expect(match("/runs/:id", "/runs/a%2Fb")).toEqual({ id: "a/b" });
    expect(match("/runs/:id", "/runs")).toBeNull();
    expect(match("/runs", "/runs/")).toEqual({});
    expect(match("/runs/:id", "/runs/%")).toEqual({ id: "%" });
  });

  it.each(["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "", null])(
    "never lead elsewhere: %j",
    (next) => expect(safeNext(next)).toBe("/"),
  );

  it("come back to where one was", () => {
    expect(safeNext("/runs/r?x=1")).toBe("/runs/r?x=1");
  });
});
