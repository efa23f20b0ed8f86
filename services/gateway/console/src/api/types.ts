/** The shapes of the gateway's answers that the console reads; `/openapi.json` has them all. */

export type Json = string | number | boolean | null | Json[] | { [name: string]: Json };
export type JsonObject = Record<string, Json>;

export type Role = "viewer" | "operator" | "approver" | "admin";

export interface Me {
  subject: string;
  tenant: string;
  roles: Role[];
  kind: "person" | "service";
}

export interface AuthConfig {
  key_login: boolean;
  oidc: boolean;
  /** Holds `{trace_id}`. */
  trace_url_template: string | null;
  temporal_ui_url: string | null;
}

export interface Source {
  document_id: string;
  title: string;
  uri: string;
  passage_id: string;
  /** Offsets in characters (code points) within the document's text. */
  start: number;
  end: number;
  score: number;
  quote: string;
}

export type RunStatus = "pending" | "running" | "interrupted" | "success" | "error" | "timeout" | "cancelled";

export interface RunResult {
  answer: string;
  sources: Source[];
  confidence: number;
  confidence_basis: "token_logprobs" | "retrieval_scores";
  model: string;
  usage: { input_tokens: number; output_tokens: number; estimated?: boolean };
  finish_reason?: "stop" | "length" | "refusal" | "tool_calls";
}

export interface RunAccepted {
  run_id: string;
  session_id: string;
  workflow_id: string;
  status: RunStatus;
}

export interface Run extends RunAccepted {
  user_id: string;
  query: string;
  result: RunResult | null;
  error: JsonObject | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
}

export interface Step {
  kind: "workflow_step" | "delegation" | "llm_call";
  step: string;
  status: string;
  attempt: number;
  agent: string | null;
  task_id: string | null;
  model: string | null;
  input_tokens: number | null;
  output_tokens: number | null;
  error: JsonObject | null;
  started_at: string | null;
  finished_at: string | null;
  duration_ms: number | null;
}

export interface RunSteps {
  steps: Step[];
  workflow_history: "complete" | "unavailable";
  trace_id?: string | null;
}

export interface Session {
  session_id: string;
  user_id: string;
  head_seq: number;
  parent_session_id: string | null;
  forked_at_seq: number | null;
  created_at: string;
  metadata: JsonObject;
}

export type LineageSession = Omit<Session, "metadata">;

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

export interface SessionEvents {
  events: SessionEvent[];
  next_seq: number | null;
}

export interface SaidMessage {
  seq: number;
  time: string;
  source: string;
  run_id: string | null;
  role: string;
  content: string;
  sources: Source[];
}

export interface MadeToolCall {
  seq: number;
  time: string;
  run_id: string | null;
  tool: string;
  call_id: string;
  agent: string;
  args: JsonObject;
}

export interface GotToolResult {
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

export interface MetError {
  seq: number;
  time: string;
  run_id: string | null;
  type: string;
  message: string;
  where: string;
  retryable: boolean;
  attempt: number;
}

export interface SessionState {
  session_id: string;
  at_seq: number;
  at_time: string | null;
  status: string | null;
  variables: JsonObject;
  messages: SaidMessage[];
  tool_calls: MadeToolCall[];
  tool_results: GotToolResult[];
  errors: MetError[];
}

export interface Change {
  before: Json;
  after: Json;
}

export interface StateDiff {
  session_id: string;
  from_seq: number;
  to_seq: number;
  status: Change | null;
  variables: Record<string, Change>;
  messages_added: SaidMessage[];
  messages_removed: SaidMessage[];
  tool_calls_added: MadeToolCall[];
  tool_calls_removed: MadeToolCall[];
  tool_results_added: GotToolResult[];
  tool_results_removed: GotToolResult[];
  errors_added: MetError[];
  errors_removed: MetError[];
}

export interface SessionVerdict {
  session_id: string;
  events: number;
  verified_seq: number;
  anchored_seq: number;
  problem: { seq?: number | null; session_id?: string | null; detail?: string; kind?: string } | null;
}

export interface Verdict {
  ok: boolean;
  sessions: SessionVerdict[];
  checkpoints: number;
  signatures_checked: boolean;
  kafka_checked: boolean;
  problems: JsonObject[];
}

export type RiskLevel = "low" | "medium" | "high";
export type Decision = "approve" | "reject" | "edit";
export type ApprovalStatus = "not_required" | "pending" | "approved" | "rejected" | "timeout" | "cancelled";

export interface Vote {
  subject: string;
  decision: Decision;
  content_hash: string;
  reason: string | null;
  authenticated: boolean;
}

export interface Approval {
  approval_id: string;
  session_id: string;
  workflow_id: string;
  run_id: string | null;
  task_id: string | null;
  action: string;
  description: string;
  args: JsonObject;
  /** JSON schema of `args`; null where the action declares none. */
  args_schema?: JsonObject | null;
  content: string;
  content_hash: string;
  risk_level: RiskLevel;
  reasons: string[];
  requested_by: string;
  on_behalf_of: string | null;
  roles: Role[];
  quorum: number;
  editable_args: string[];
  reason_required: Decision[];
  policy_version: string;
  exclude_requester?: boolean;
  status: ApprovalStatus;
  votes: Vote[];
  created_at: string;
  deadline_at: string;
  reminder_at: string | null;
  decided_at: string | null;
}

export interface DecisionAnswer {
  approval_id: string;
  decision: Decision;
  subject: string;
  approval_status: ApprovalStatus;
  content: string;
  content_hash: string;
  approvals: number;
  quorum: number;
}

export interface Action {
  action_id: string;
  status: string;
  current_step: string;
  result: Json;
  error: JsonObject | null;
  finished_at: string | null;
}

export interface AgentInstance {
  instance: string;
  version: string;
  concurrency: number;
  in_flight: number;
  started_at: string;
  last_seen: string;
}

export interface Agent {
  name: string;
  version: string;
  stream: string;
  group: string;
  instances: number;
  in_flight: number;
  last_seen: string;
  members: AgentInstance[];
}

export interface DeadLetter {
  dead_letter_id: string;
  stream: string;
  group: string;
  entry_id: string;
  task_id: string | null;
  session_id: string | null;
  run_id: string | null;
  event_type: string | null;
  reason: string;
  error: string;
  attempts: number;
  created_at: string;
  redriven_at: string | null;
  discarded_at: string | null;
}

export interface DeadLetterWithBody extends DeadLetter {
  body: string;
  fields: Record<string, string>;
}

export interface OutboxStatus {
  backlog_rows: number;
  oldest_unpublished_s: number;
  parked: { session_id: string; seq: number; event_id: string; error: string; parked_at: string; waiting: number }[];
}

export interface StreamFigures {
  stream: string;
  group: string;
  lag: number | null;
  pending: number | null;
  oldest_pending_s: number | null;
  dead_letters: number;
}

export interface Fleet {
  streams: StreamFigures[];
  outbox: { backlog_rows: number; oldest_unpublished_s: number; parked: number };
  audit: { lag_events: number | null; checkpoint_age_s: number | null; parked_sessions: number };
  approvals_pending: number;
  parked_orders: number;
  runs_active: number;
}

export interface FleetHistory {
  step_s: number;
  times: number[];
  series: Record<string, (number | null)[]>;
}

export interface OrderStep {
  number: number;
  name: string;
  status: string;
  compensation: string | null;
  error: string | null;
}

export interface Order {
  order_id: string;
  session_id: string;
  workflow_id: string;
  status: "pending" | "approved" | "rejected" | "compensation_failed";
  user_id: string;
  amount: string;
  currency: string;
  product_id: string;
  confirmation: string | null;
  reason: string | null;
  steps: OrderStep[];
  created_at: string;
  finished_at: string | null;
}

export interface Document {
  document_id: string;
  uri: string;
  title: string;
  media_type: string;
  size_bytes: number;
  passages: number;
  created_at: string;
  updated_at: string;
}

export interface DocumentText extends Document {
  text: string;
}

export interface AddedDocument {
  document_id: string;
  uri: string;
  title: string;
  passages: number;
  unchanged: boolean;
}

export interface Passage {
  text: string;
  source: Source;
}
