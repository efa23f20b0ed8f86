/** The shapes of the gateway's answers that the console reads, generated from its OpenAPI document. */

import type { components } from "./schema";

export type Json = string | number | boolean | null | Json[] | { [name: string]: Json };
export type JsonObject = Record<string, Json>;

/** The generated type with `Json` where the schema allows any value. */
type Known<T> = unknown extends T
  ? Json
  : T extends (infer Item)[]
    ? Known<Item>[]
    : T extends object
      ? { [Name in keyof T]: Known<T[Name]> }
      : T;
type Schema<Name extends keyof components["schemas"]> = Known<components["schemas"][Name]>;

export type Me = Schema<"Me">;
export type Role = Me["roles"][number];
export type AuthConfig = Schema<"LoginOptions">;
export type Source = Schema<"Source">;
export type Run = Schema<"Run">;
export type RunStatus = Run["status"];
export type RunResult = Schema<"RAGResponse">;
export type RunAccepted = Schema<"RunAccepted">;
export type Workflow = Omit<Schema<"Workflow">, "input_schema"> & { input_schema: JsonObject };
export type RunSteps = Schema<"RunSteps">;
export type Feedback = Schema<"Feedback">;
export type RunFeedback = Schema<"RunFeedback">;
export type Step = Schema<"Step">;
export type Session = Schema<"Session">;
export type LineageSession = Schema<"Lineage">["sessions"][number];
export type Access = Schema<"Access">;
export type Party = Access["readers"][number];
export type AccessChange = Partial<Schema<"AccessChange">>;
export type Change = Schema<"Change">;
export type SessionVerdict = Schema<"SessionVerdict">;
export type Verdict = Schema<"Verdict">;
export type Approval = Schema<"Approval">;
export type RiskLevel = Approval["risk_level"];
export type ApprovalStatus = Approval["status"];
export type Vote = Schema<"Vote">;
export type Decision = Vote["decision"];
export type Question = Schema<"Question">;
export type QuestionStatus = Question["status"];
export type Signer = Schema<"Signer">;
export type McpTool = Schema<"Tool">;
export type McpToolDefinition = Schema<"ToolDefinition">;
export type Spent = Schema<"Spent">;
export type Passkeys = Schema<"Passkeys">;
export type PrivacyRequest = Schema<"PrivacyRequest">;
export type ErasurePlan = Schema<"ErasurePlan">;
export type ArchivableSession = Schema<"ArchivableSession">;
export type ArchivedSession = Schema<"ArchivedSession">;
export type AuditRequest = Omit<Schema<"AuditRequest">, "outcome"> & { outcome: JsonObject | null };
export type LegalHold = Schema<"LegalHold">;
export type RetentionPolicy = Schema<"RetentionPolicy">;
export type RetentionPlan = Schema<"RetentionPlan">;
export type DecisionAnswer = Schema<"DecisionAnswer">;
export type Agent = Schema<"Agent">;
export type AgentInstance = Schema<"AgentInstance">;
export type DeadLetter = Schema<"DeadLetter">;
export type DeadLetterWithBody = Schema<"DeadLetterWithBody">;
export type OutboxStatus = Schema<"OutboxStatus">;
export type StreamFigures = Schema<"Stream">;
export type Fleet = Schema<"Fleet">;
export type FleetHistory = Schema<"FleetHistory">;
export type Order = Schema<"Order">;
export type OrderStep = Schema<"SagaStepState">;
export type Document = Schema<"Document">;
export type DocumentText = Schema<"DocumentText">;
export type AddedDocument = Schema<"AddedDocument">;
export type Passage = Schema<"Passage">;

/** A CloudEvent of a session. */
export interface SessionEvent {
  id: string;
  type: string;
  source: string;
  subject: string;
  time: string;
  sequence: number;
  data: JsonObject;
  tenant?: string;
  runid?: string;
  taskid?: string;
  subjectkey?: string;
  traceparent?: string;
}

export interface MessageEntry {
  seq: number;
  time: string;
  source: string;
  run_id: string | null;
  role: string;
  content: string;
  sources: Source[];
}

export interface ToolCallEntry {
  seq: number;
  time: string;
  run_id: string | null;
  tool: string;
  call_id: string;
  agent: string;
  args: JsonObject;
}

export interface ToolResultEntry {
  seq: number;
  time: string;
  run_id: string | null;
  tool: string;
  call_id: string;
  agent: string;
  ok: boolean;
  duration_ms: number;
  result: Json;
  error: string | null;
}

export interface ErrorEntry {
  seq: number;
  time: string;
  run_id: string | null;
  type: string;
  message: string;
  where: string;
  retryable: boolean;
  attempt: number;
}

/** Entries and events are free-form in the OpenAPI document: `docs/guarantees.md` names the kinds. */
export type SessionEvents = Omit<Schema<"SessionEvents">, "events"> & { events: SessionEvent[] };

export type SessionState = Omit<Schema<"SessionState">, "messages" | "tool_calls" | "tool_results" | "errors"> & {
  messages: MessageEntry[];
  tool_calls: ToolCallEntry[];
  tool_results: ToolResultEntry[];
  errors: ErrorEntry[];
};

export interface StateDiff {
  session_id: string;
  from_seq: number;
  to_seq: number;
  status: Change | null;
  variables: Record<string, Change>;
  messages_added: MessageEntry[];
  messages_removed: MessageEntry[];
  tool_calls_added: ToolCallEntry[];
  tool_calls_removed: ToolCallEntry[];
  tool_results_added: ToolResultEntry[];
  tool_results_removed: ToolResultEntry[];
  errors_added: ErrorEntry[];
  errors_removed: ErrorEntry[];
}
