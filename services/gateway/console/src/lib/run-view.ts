/** What a follower of a run shows: answer, steps and session events, folded from the live stream. */

import type { ServerEvent } from "../api/sse";
import type { Run, RunStatus, SessionEvent } from "../api/types";

export interface LiveStep {
  step: string;
  agent: string;
  attempt: number;
  status: "started" | "finished" | "failed";
}

export interface RunView {
  /** The answer so far: the pieces of the task that writes it. */
  text: string;
  taskId: string | null;
  attempt: number;
  steps: LiveStep[];
  /** Seq of the newest session event, so that none counts twice. */
  seq: number;
  /** Newest live entry, `<ms>-<n>`. */
  entryId: string;
  tokens: number;
  status: RunStatus | null;
}

/** What a run is shown as in lists and titles: its question, or the workflow that it runs. */
export function nameOf(run: Run): string {
  return run.query === "" ? run.workflow : run.query;
}

export const EMPTY: RunView = {
  text: "",
  taskId: null,
  attempt: 0,
  steps: [],
  seq: 0,
  entryId: "0-0",
  tokens: 0,
  status: null,
};

/** The view after one event. An event that was seen before changes nothing. */
export function reduce(view: RunView, event: ServerEvent): RunView {
  const at = positionOf(event.id);
  if (event.event === "session_event") return sessionEvent(view, event.data);
  if (event.event === "done") return { ...view, status: (dataOf(event) as { status: RunStatus }).status };
  if (at !== null && compareEntries(at.entryId, view.entryId) <= 0) return view;
  const moved = at === null ? view : { ...view, entryId: at.entryId };
  if (event.event === "token") return token(moved, dataOf(event) as Token);
  if (event.event === "reset") return reset(moved, dataOf(event) as Token);
  if (event.event === "step") return step(moved, dataOf(event) as LiveStep);
  return moved;
}

interface Token {
  text: string;
  task_id: string;
  attempt: number;
}

function token(view: RunView, { text, task_id, attempt }: Token): RunView {
  if (task_id === view.taskId && attempt < view.attempt) return view; // of an attempt that is void
  const isNew = task_id !== view.taskId || attempt > view.attempt;
  return {
    ...view,
    taskId: task_id,
    attempt,
    text: isNew ? text : view.text + text,
    tokens: isNew ? 1 : view.tokens + 1,
  };
}

function reset(view: RunView, { task_id, attempt }: Omit<Token, "text">): RunView {
  return { ...view, taskId: task_id, attempt, text: "", tokens: 0 };
}

function step(view: RunView, next: LiveStep): RunView {
  const at = view.steps.findIndex((one) => one.step === next.step && one.attempt === next.attempt);
  const steps = at < 0 ? [...view.steps, next] : view.steps.with(at, next);
  return { ...view, steps };
}

function sessionEvent(view: RunView, data: string): RunView {
  const { sequence } = JSON.parse(data) as SessionEvent;
  return sequence <= view.seq ? view : { ...view, seq: sequence };
}

function dataOf(event: ServerEvent): unknown {
  return JSON.parse(event.data);
}

/** The parts of an event's id, `<redis id>;<seq>`. */
export function positionOf(id: string | null): { entryId: string; seq: number } | null {
  const match = /^(\d+-\d+);(\d+)$/.exec(id ?? "");
  return match === null ? null : { entryId: match[1] ?? "0-0", seq: Number(match[2]) };
}

/** Order of two Redis entry ids. */
export function compareEntries(one: string, other: string): number {
  const [ms = 0, n = 0] = one.split("-").map(Number);
  const [otherMs = 0, otherN = 0] = other.split("-").map(Number);
  return ms === otherMs ? n - otherN : ms - otherMs;
}
