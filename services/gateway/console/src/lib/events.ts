/** Session events as a person reads them in one line. */

import type { Json, JsonObject, SessionEvent } from "../api/types";
import { duration, whoAsked } from "./format";
import { oneLine } from "./text";

export const KINDS = ["message", "tool_call", "tool_result", "state_change", "error"] as const;
export type Kind = (typeof KINDS)[number];

export const KIND_LABELS: Record<Kind, string> = {
  message: "Message",
  tool_call: "Tool call",
  tool_result: "Tool result",
  state_change: "State change",
  error: "Error",
};

export function kindOf(event: SessionEvent): Kind | null {
  const match = /^flotilla\.session\.(\w+)\.v\d+$/.exec(event.type);
  return KINDS.find((kind) => kind === match?.[1]) ?? null;
}

/** Who made the event: `research`, `gateway`, `RagAgentWorkflow`. */
export function actorOf(event: SessionEvent): string {
  const agent = event.data.agent;
  if (typeof agent === "string" && agent !== "") return agent;
  return event.source.split("/").filter(Boolean).at(-1) ?? event.source;
}

/** The event in one line. */
export function summary(event: SessionEvent): string {
  const { data } = event;
  switch (kindOf(event)) {
    case "message":
      return `${str(data.role)}: ${oneLine(str(data.content))}`;
    case "tool_call":
      return `${str(data.tool)}(${argumentsLine(data.args)})`;
    case "tool_result":
      return resultLine(data);
    case "state_change":
      return changeLine(data);
    case "error":
      return `${str(data.type)}: ${oneLine(str(data.message))}`;
    case null:
      return event.type;
  }
}

function argumentsLine(args: Json | undefined): string {
  if (typeof args !== "object" || args === null) return "";
  return oneLine(
    Object.entries(args)
      .map(([name, value]) => `${name}: ${JSON.stringify(value)}`)
      .join(", "),
    160,
  );
}

function resultLine(data: JsonObject): string {
  const took = typeof data.duration_ms === "number" ? ` in ${duration(data.duration_ms)}` : "";
  if (data.ok === false) return `${str(data.tool)} failed${took}: ${oneLine(str(data.error))}`;
  const { result } = data;
  const size = Array.isArray(result) ? `${result.length} ${result.length === 1 ? "item" : "items"}` : "done";
  return `${str(data.tool)}: ${size}${took}`;
}

function changeLine(data: JsonObject): string {
  const parts = [str(data.change).replaceAll("_", " ")];
  if (typeof data.status === "string") parts.push(`status ${data.status}`);
  const set = data.set;
  if (typeof set === "object" && set !== null && Object.keys(set).length > 0) {
    parts.push(`sets ${Object.keys(set).join(", ")}`);
  }
  const unset = data.unset;
  if (Array.isArray(unset) && unset.length > 0) parts.push(`unsets ${unset.map(str).join(", ")}`);
  const asked = throughService(data.details);
  if (asked !== null) parts.push(asked);
  return parts.join(" · ");
}

/** The person and the service, where one acted on behalf of the other. */
function throughService(details: Json | undefined): string | null {
  if (typeof details !== "object" || details === null || Array.isArray(details)) return null;
  const person = details.by ?? details.user_id ?? details.placed_by ?? details.on_behalf_of;
  const service = details.acted_by ?? (details.on_behalf_of === undefined ? undefined : details.requested_by);
  return typeof person === "string" && typeof service === "string" ? whoAsked(person, service) : null;
}

/** Whether an event holds the words, in its line or its data. */
export function holds(event: SessionEvent, words: string): boolean {
  const text = `${summary(event)} ${actorOf(event)} ${JSON.stringify(event.data)}`.toLowerCase();
  return words
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}

/** The trace that a `traceparent` belongs to. */
export function traceIdOf(traceparent: string | undefined): string | null {
  return /^[0-9a-f]{2}-([0-9a-f]{32})-/.exec(traceparent ?? "")?.[1] ?? null;
}

function str(value: Json | undefined): string {
  if (typeof value === "string") return value;
  return value === undefined || value === null ? "" : JSON.stringify(value);
}
