import { describe, expect, it, vi } from "vitest";
import type { LineageSession, SessionEvent, SessionEvents } from "../src/api/types";
import { branches } from "../src/lib/lineage";
import { PAGE, Timeline } from "../src/lib/timeline";
import { isAtEnd, scrollTo, windowOf } from "../src/lib/virtual";
import { moved } from "../src/ui/virtual-list";

function event(sequence: number): SessionEvent {
  return {
    id: `e${sequence}`,
    type: "flotilla.session.message.v1",
    source: "/gateway",
    subject: "s",
    time: "2026-01-01T00:00:00Z",
    sequence,
    data: {},
  };
}

describe("the window of a long list", () => {
  it("draws what is in view and a little more", () => {
    expect(windowOf(4000, 400, 40, 10_000, 5)).toEqual({ first: 95, end: 115 });
  });

  it("draws the last rows at the end, also when the list became shorter", () => {
    expect(windowOf(400_000, 400, 40, 10_000, 5)).toEqual({ first: 9985, end: 10_000 });
    expect(windowOf(400_000, 400, 40, 3, 5)).toEqual({ first: 0, end: 3 });
    expect(windowOf(0, 400, 40, 0)).toEqual({ first: 0, end: 0 });
  });

  it("never draws more than the view and its edges, whatever the length", () => {
    for (const rows of [0, 1, 50, 10_000, 1_000_000]) {
      const { first, end } = windowOf(rows * 20, 600, 40, rows);
      expect(end - first).toBeLessThanOrEqual(15 + 2 * 8 + 1);
    }
  });

  it("scrolls no further than needed", () => {
    expect(scrollTo(10, 0, 400, 40)).toBe(40);
    expect(scrollTo(2, 200, 400, 40)).toBe(80);
    expect(scrollTo(7, 200, 400, 40)).toBe(200);
  });

  it("knows its end", () => {
    expect(isAtEnd(600, 400, 1000)).toBe(true);
    expect(isAtEnd(400, 400, 1000)).toBe(false);
  });

  it("moves by keys, within the list", () => {
    expect(moved("ArrowDown", 9, 10, 5)).toBe(9);
    expect(moved("PageUp", 7, 10, 5)).toBe(2);
    expect(moved("Home", 7, 10, 5)).toBe(0);
    expect(moved("End", 0, 10, 5)).toBe(9);
    expect(moved("a", 0, 10, 5)).toBeNull();
    expect(moved("End", 0, 0, 5)).toBeNull();
  });
});

describe("the timeline", () => {
  const log = (length: number) =>
    vi.fn((from: number, limit: number): Promise<SessionEvents> => {
      const end = Math.min(length, from + limit - 1);
      const events = Array.from({ length: Math.max(0, end - from + 1) }, (_, at) => event(from + at));
      return Promise.resolve({ events, next_seq: end < length ? end + 1 : null });
    });

  it("loads only the pages in view", async () => {
    const load = log(10_000);
    const timeline = new Timeline(load);
    timeline.grow(10_000);
    await timeline.ensure(9_970, 10_000);
    expect(load.mock.calls).toEqual([[9_801, PAGE]]);
    expect(timeline.get(9_990)?.sequence).toBe(9_990);
    expect(timeline.get(1)).toBeUndefined();
  });

  it("asks for a page once, however often it comes into view", async () => {
    const load = log(1000);
    const timeline = new Timeline(load);
    timeline.grow(1000);
    await Promise.all([timeline.ensure(1, 20), timeline.ensure(5, 30)]);
    await timeline.ensure(10, 40);
    expect(load).toHaveBeenCalledTimes(1);
  });

  it("takes each event once, live or loaded", async () => {
    const timeline = new Timeline(log(3));
    timeline.put([event(1), event(2)]);
    const { value: before } = timeline.revision;
    timeline.put([event(2)]);
    expect(timeline.revision.value).toBe(before);
    timeline.grow(3);
    await timeline.ensure(1, 3);
    expect(timeline.loaded).toBe(3);
    expect(timeline.head.value).toBe(3);
  });

  it("says what went wrong, and loads the page the next time", async () => {
    const load = log(10);
    load.mockRejectedValueOnce(new Error("away"));
    const timeline = new Timeline(load);
    timeline.grow(10);
    await timeline.ensure(1, 10);
    expect(timeline.error.value).toEqual(new Error("away"));
    await timeline.ensure(1, 10);
    expect(timeline.error.value).toBeNull();
    expect(timeline.loaded).toBe(10);
  });

  it("loads everything for a filter, in few requests", async () => {
    const load = log(2_500);
    const timeline = new Timeline(load);
    timeline.grow(2_500);
    const seen: number[] = [];
    await timeline.ensureAll((loaded) => seen.push(loaded), new AbortController().signal);
    expect(timeline.loaded).toBe(2_500);
    expect(seen).toEqual([1000, 2000, 2500]);
  });
});

describe("lineage", () => {
  const session = (session_id: string, parent: string | null, at: number | null): LineageSession => ({
    session_id,
    parent_session_id: parent,
    metadata: {},
    kind: "conversation",
    forked_at_seq: at,
    user_id: "alice",
    acted_by: null,
    head_seq: 9,
    created_at: "2026-01-01T00:00:00Z",
  });

  it("puts each fork under its parent, in the order of where it leaves", () => {
    const sessions = [session("c", "a", 7), session("a", null, null), session("d", "b", 3), session("b", "a", 2)];
    expect(branches(sessions).map((one) => `${one.depth} ${one.session.session_id}`)).toEqual(["0 a", "1 b", "2 d", "1 c"]);
  });

  it("takes a fork whose parent is not shown as a root", () => {
    expect(branches([session("b", "gone", 2)])).toHaveLength(1);
  });
});
