/** The steps of a run as a waterfall: what called what, and when. */

import type { Step } from "../api/types";

export interface Bar {
  step: Step;
  /** 0 for a workflow step, 1 for its delegation, 2 for a model call within. */
  depth: number;
  label: string;
  /** From the beginning of the run, in milliseconds. */
  offsetMs: number;
  durationMs: number | null;
  /** Parts of the whole, 0 to 1. */
  left: number;
  width: number;
}

export interface Waterfall {
  bars: Bar[];
  totalMs: number;
}

interface Timed {
  step: Step;
  from: number | null;
  to: number | null;
}

const NARROWEST = 0.004;

/** Steps in order, each under the one that it was done for; `now` is the end of what still runs. */
export function waterfall(steps: readonly Step[], now: number): Waterfall {
  const timed = steps.map(times);
  const begins = timed.flatMap((one) => one.from ?? []);
  const ends = timed.flatMap((one) => one.to ?? (one.step.status === "running" ? now : (one.from ?? [])));
  const begin = Math.min(...begins, ...ends);
  const total = Math.max(1, Math.max(...ends, ...begins) - begin);
  return { totalMs: begins.length + ends.length === 0 ? 0 : total, bars: ordered(timed).map(toBar) };

  function toBar({ timed: one, depth }: { timed: Timed; depth: number }): Bar {
    const from = one.from ?? one.to ?? begin;
    const to = one.to ?? (one.step.status === "running" ? now : from);
    const left = Math.min(1 - NARROWEST, Math.max(0, (from - begin) / total));
    return {
      step: one.step,
      depth,
      label: labelOf(one.step),
      offsetMs: from - begin,
      durationMs: one.step.duration_ms ?? (one.to === null ? null : to - from),
      left,
      width: Math.min(1 - left, Math.max(NARROWEST, (to - from) / total)),
    };
  }
}

function times(step: Step): Timed {
  const to = step.finished_at === null ? null : Date.parse(step.finished_at);
  const began = step.started_at === null ? null : Date.parse(step.started_at);
  // Model calls are stored when they end.
  const from = began ?? (to !== null && step.duration_ms !== null ? to - step.duration_ms : null);
  return { step, from, to };
}

function ordered(timed: Timed[]): { timed: Timed; depth: number }[] {
  const byStart = timed.toSorted((a, b) => (a.from ?? Infinity) - (b.from ?? Infinity));
  const top = byStart.filter(({ step }) => step.kind === "workflow_step");
  const placed = new Set<Timed>();
  const found: { timed: Timed; depth: number }[] = [];
  const place = (one: Timed, depth: number) => {
    if (placed.has(one)) return;
    placed.add(one);
    found.push({ timed: one, depth });
    for (const inner of byStart) if (isWithin(inner.step, one.step)) place(inner, depth + 1);
  };
  for (const one of top) place(one, 0);
  // What no step was found for: Temporal's history may be away, a routing slip has hops of its own.
  for (const one of byStart.filter(({ step }) => step.kind === "delegation")) place(one, top.length > 0 ? 1 : 0);
  for (const one of byStart) place(one, 0);
  return found;
}

function isWithin(inner: Step, outer: Step): boolean {
  if (inner.task_id === null || outer.task_id === null) return false;
  // A later hop of a slip is `t~1`; the activity of a later try is `t#2`.
  const root = inner.task_id.split("~")[0];
  if (inner.kind === "delegation") return outer.kind === "workflow_step" && outer.task_id.split("#")[0] === root;
  return inner.kind === "llm_call" && outer.kind === "delegation" && outer.task_id === inner.task_id;
}

function labelOf(step: Step): string {
  if (step.kind === "llm_call") return `Model ${step.step}`;
  return step.step.replaceAll("_", " ");
}
