import { describe, expect, it } from "vitest";
import { compareEntries, EMPTY, positionOf, reduce } from "../src/lib/run-view";

const token = (text: string, id: string, attempt = 1, task_id = "t") => ({
  event: "token",
  id,
  data: JSON.stringify({ text, task_id, attempt }),
});
const all = (...events: Parameters<typeof reduce>[1][]) => events.reduce(reduce, EMPTY);

describe("the view of a run", () => {
  it("adds tokens up", () => {
    expect(all(token("Two ", "1-0;1"), token("people.", "2-0;1")).text).toBe("Two people.");
  });

  it("counts an event once when it comes again after a reconnect", () => {
    const view = all(token("Two ", "1-0;1"), token("people.", "1-1;1"), token("people.", "1-1;1"), token("Two ", "1-0;3"));
    expect(view.text).toBe("Two people.");
    expect(view.tokens).toBe(2);
  });

  it("starts over with a reset, and leaves out late tokens of the attempt before", () => {
    const reset = { event: "reset", id: "3-0;1", data: '{"task_id":"t","attempt":2}' };
    const view = all(token("Wrong", "1-0;1"), reset, token("late", "4-0;1", 1), token("Right", "5-0;1", 2));
    expect(view.text).toBe("Right");
  });

  it("replaces a step when it ends, and keeps each attempt", () => {
    const step = (status: string, attempt: number, id: string) => ({
      event: "step",
      id,
      data: JSON.stringify({ step: "write", agent: "write", attempt, status }),
    });
    const view = all(step("started", 1, "1-0;1"), step("failed", 1, "2-0;1"), step("started", 2, "3-0;1"));
    expect(view.steps.map((one) => `${one.attempt} ${one.status}`)).toEqual(["1 failed", "2 started"]);
  });

  it("moves on with session events, never back", () => {
    const event = (sequence: number) => ({ event: "session_event", id: `0-0;${sequence}`, data: JSON.stringify({ sequence }) });
    expect(all(event(3), event(4), event(3)).seq).toBe(4);
  });

  it("knows the end", () => {
    expect(all({ event: "done", id: "9-0;9", data: '{"status":"cancelled"}' }).status).toBe("cancelled");
  });
});

it("orders entry ids as Redis does", () => {
  expect(["10-0", "9-5", "9-10", "9-0"].toSorted(compareEntries)).toEqual(["9-0", "9-5", "9-10", "10-0"]);
  expect(positionOf("17-3;42")).toEqual({ entryId: "17-3", seq: 42 });
  expect(positionOf("nonsense")).toBeNull();
});
