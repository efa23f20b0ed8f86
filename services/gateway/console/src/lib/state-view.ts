/** States and differences as lists that a page can show in order. */

import type { Change, ToolResultEntry, Json, ToolCallEntry, ErrorEntry, MessageEntry, SessionState, StateDiff } from "../api/types";

export interface CallOfState {
  call: ToolCallEntry;
  result: ToolResultEntry | null;
}

/** Each tool call with its result; null where there is none yet. */
export function callsOf(state: Pick<SessionState, "tool_calls" | "tool_results">): CallOfState[] {
  const results = new Map(state.tool_results.map((one) => [one.call_id, one]));
  return state.tool_calls.map((call) => ({ call, result: results.get(call.call_id) ?? null }));
}

export type DiffLine =
  | { kind: "status"; change: Change }
  | { kind: "variable"; name: string; change: Change }
  | { kind: "message"; isAdded: boolean; seq: number; item: MessageEntry }
  | { kind: "call"; isAdded: boolean; seq: number; item: ToolCallEntry }
  | { kind: "result"; isAdded: boolean; seq: number; item: ToolResultEntry }
  | { kind: "error"; isAdded: boolean; seq: number; item: ErrorEntry };

/** A difference as lines: status and variables first, then what was removed and added, by seq. */
export function linesOf(diff: StateDiff): DiffLine[] {
  const lines: DiffLine[] = [];
  if (diff.status !== null) lines.push({ kind: "status", change: diff.status });
  for (const [name, change] of Object.entries(diff.variables)) lines.push({ kind: "variable", name, change });
  const items: Extract<DiffLine, { seq: number }>[] = [
    ...placed("message", false, diff.messages_removed),
    ...placed("call", false, diff.tool_calls_removed),
    ...placed("result", false, diff.tool_results_removed),
    ...placed("error", false, diff.errors_removed),
    ...placed("message", true, diff.messages_added),
    ...placed("call", true, diff.tool_calls_added),
    ...placed("result", true, diff.tool_results_added),
    ...placed("error", true, diff.errors_added),
  ] as Extract<DiffLine, { seq: number }>[];
  return [...lines, ...items.toSorted((a, b) => Number(a.isAdded) - Number(b.isAdded) || a.seq - b.seq)];
}

function placed(kind: string, isAdded: boolean, items: readonly { seq: number }[]) {
  return items.map((item) => ({ kind, isAdded, seq: item.seq, item }));
}

/** A value in one line. */
export function inLine(value: Json | undefined): string {
  return typeof value === "string" ? value : JSON.stringify(value ?? null);
}

export function isEmptyState(state: SessionState): boolean {
  return (
    state.messages.length + state.tool_calls.length + state.errors.length === 0 &&
    Object.keys(state.variables).length === 0
  );
}
