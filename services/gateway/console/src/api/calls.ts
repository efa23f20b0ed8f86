/** One function per request that the console makes. */

import { address, get, getText, patch, path, post, put, remove } from "./client";
import type { Signed, VoteSignature } from "../lib/signing";
import type * as t from "./types";

export type Page<Name extends string, T> = Record<Name, T[]> & { next_cursor: string | null };

export const MOST = 1000;

export const authConfig = () => get<t.AuthConfig>("/auth/config");
export const me = () => get<t.Me>("/auth/me");
export const login = (key: string) => post<undefined>("/auth/login", { key });
export const logout = () => post<undefined>("/auth/logout");

export const createSession = (session_id?: string) =>
  post<t.Session>("/v1/sessions", session_id === undefined ? {} : { session_id });
export const listSessions = (query: { cursor?: string | undefined; q?: string | undefined; limit?: number }) =>
  get<Page<"sessions", t.Session>>("/v1/sessions", query);
export const getSession = (id: string, signal?: AbortSignal) => get<t.Session>(path("/v1/sessions", id), {}, signal);
export const sessionEvents = (id: string, from_seq: number, limit: number, signal?: AbortSignal) =>
  get<t.SessionEvents>(path("/v1/sessions", id, "events"), { from_seq, limit }, signal);
export const stateAt = (id: string, at_seq: number, signal?: AbortSignal) =>
  get<t.SessionState>(path("/v1/sessions", id, "state"), { at_seq }, signal);
export const diff = (id: string, from_seq: number, to_seq: number, signal?: AbortSignal) =>
  get<t.StateDiff>(path("/v1/sessions", id, "diff"), { from_seq, to_seq }, signal);
export const lineage = (id: string) => get<{ sessions: t.LineageSession[] }>(path("/v1/sessions", id, "lineage"));
export const fork = (id: string, at_seq: number, session_id?: string) =>
  post<t.Session>(path("/v1/sessions", id, "fork"), session_id ? { at_seq, session_id } : { at_seq });
export const rollback = (id: string, to_seq: number) =>
  post<{ seq: number; to_seq: number }>(path("/v1/sessions", id, "rollback"), { to_seq });
export const sessionAccess = (id: string) => get<t.Access>(path("/v1/sessions", id, "access"));
export const changeAccess = (id: string, change: t.AccessChange) =>
  patch<t.Access>(path("/v1/sessions", id, "access"), change);
export const verify = (session_id: string) => get<t.Verdict>("/v1/audit/verify", { session_id });

export const startRun = (session_id: string, query: string, key: string) =>
  post<t.RunAccepted>(path("/v1/sessions", session_id, "runs"), { query }, { headers: { "Idempotency-Key": key } });
export const startWorkflow = (session_id: string, workflow: string, input: t.JsonObject, key: string) =>
  post<t.RunAccepted>(
    path("/v1/sessions", session_id, "runs"),
    { workflow, input },
    { headers: { "Idempotency-Key": key } },
  );
export const listWorkflows = () => get<{ workflows: t.Workflow[] }>("/v1/workflows");
export const listRuns = (query: {
  session_id?: string | undefined;
  status?: string | undefined;
  cursor?: string | undefined;
  limit?: number;
}) => get<Page<"runs", t.Run>>("/v1/runs", query);
export const getRun = (id: string) => get<t.Run>(path("/v1/runs", id));
export const runFeedback = (id: string) => get<t.RunFeedback>(path("/v1/runs", id, "feedback"));
export const giveFeedback = (id: string, verdict: "up" | "down") =>
  post<t.Feedback>(path("/v1/runs", id, "feedback"), { verdict });
export const runSteps = (id: string) => get<t.RunSteps>(path("/v1/runs", id, "steps"));
export const cancelRun = (id: string) => post<{ status: t.RunStatus }>(path("/v1/runs", id, "cancel"));

export const listApprovals = (status?: t.ApprovalStatus, cursor?: string, limit = MOST) =>
  get<Page<"approvals", t.Approval>>("/v1/approvals", { status, cursor, limit });
export const getApproval = (id: string) => get<t.Approval>(path("/v1/approvals", id));
export const countApprovals = () => get<{ pending: number }>("/v1/approvals/count");
export const decide = (
  id: string,
  body: { decision: t.Decision; content_hash: string; reason?: string; args?: t.JsonObject; signature?: VoteSignature },
) => post<t.DecisionAnswer>(path("/v1/approvals", id, "decision"), body);

export const listQuestions = (status?: t.QuestionStatus, cursor?: string) =>
  get<Page<"questions", t.Question>>("/v1/questions", { status, cursor, limit: 100 });
export const getQuestion = (id: string) => get<t.Question>(path("/v1/questions", id));
export const answerQuestion = (id: string, answer: t.JsonObject) =>
  post<t.Question>(path("/v1/questions", id, "answer"), { answer });

export const listSigners = (subject?: string) =>
  get<Page<"signers", t.Signer> & { passkeys: t.Passkeys | null }>("/v1/signers", { subject, limit: MOST });
export const enrollSigner = (signed: Signed) => post<t.Signer>("/v1/signers", signed);
export const approveSigner = (id: string, signed: Signed) => post<t.Signer>(path("/v1/signers", id, "approval"), signed);
export const revokeSigner = (id: string) => remove<t.Signer>(path("/v1/signers", id));

export const spend = (by: string, since: string) => get<{ spend: t.Spent[] }>("/v1/spend", { by, since });

export const listTools = () => get<{ tools: t.McpTool[] }>("/v1/tools");
export const allowTool = (name: string, sha256: string) => put<t.McpTool>(path("/v1/tools", name, "allowance"), { sha256 });
export const revokeTool = (name: string) => remove<undefined>(path("/v1/tools", name, "allowance"));

export const acceptOutcome = (approval_id: string, result: string, reason: string) =>
  put<unknown>(path("/v1/approvals", approval_id, "outcome"), { result, reason });

export const listAgents = () => get<{ agents: t.Agent[] }>("/v1/agents");
export const fleet = () => get<t.Fleet>("/v1/fleet");
export const fleetHistory = () => get<t.FleetHistory>("/v1/fleet/history");
export const outbox = () => get<t.OutboxStatus>("/v1/outbox");
export const redriveOutbox = (session_id: string) => post<unknown>(path("/v1/outbox", session_id, "redrive"), {});
export const listDeadLetters = (cursor?: string) =>
  get<Page<"dead_letters", t.DeadLetter>>("/v1/dead-letters", { cursor });
export const getDeadLetter = (id: string) => get<t.DeadLetterWithBody>(path("/v1/dead-letters", id));
export const redriveDeadLetter = (id: string) => post<unknown>(path("/v1/dead-letters", id, "redrive"));
export const discardDeadLetter = (id: string) => remove<unknown>(path("/v1/dead-letters", id));

export const listOrders = (status?: string, cursor?: string) =>
  get<Page<"orders", t.Order>>("/v1/orders", { status, cursor });
export const operate = (order_id: string, step: number, verb: "retry" | "skip" | "resolve", reason?: string) =>
  post<t.Order>(path("/v1/orders", order_id, "steps", step, verb), reason === undefined ? {} : { reason });

export const listDocuments = (cursor?: string) =>
  get<Page<"documents", t.Document>>("/v1/documents", { cursor, limit: 100 });
/** What the uris of a session's attachments begin with; then comes the file's name. */
export const attachmentPrefix = (session: string) => `session:${session}/`;
export const listAttachments = (session: string, cursor?: string) =>
  get<Page<"documents", t.Document>>("/v1/documents", { prefix: attachmentPrefix(session), cursor, limit: 100 });
export const attachmentsOf = (session: string) => path("/v1/sessions", session, "attachments");
export const removeDocument = (id: string) => remove<unknown>(path("/v1/documents", id));
export const getDocument = (id: string) => get<t.DocumentText>(path("/v1/documents", id));
export const search = (q: string, k: number, signal?: AbortSignal) =>
  get<{ passages: t.Passage[] }>("/v1/documents/search", { q, k }, signal);

export const listPrivacyRequests = () => get<{ requests: t.PrivacyRequest[] }>("/v1/privacy/requests", { limit: 100 });
export const confirmPrivacyRequest = (id: string) =>
  post<t.PrivacyRequest>(path("/v1/privacy/requests", id, "confirm"));
export const planErasure = (subject: string) => get<t.ErasurePlan>("/v1/privacy/plan", { subject });
export const askErasure = (body: { subject: string; reason: string }) => post<unknown>("/v1/privacy/erasures", body);
export const askExport = (body: { subject: string; reason: string }) => post<unknown>("/v1/privacy/exports", body);
/** Where the browser downloads an export. */
export const exportArchive = (id: string) => path("/v1/privacy/exports", id, "archive");

export const listArchivable = (before: string) =>
  get<{ sessions: t.ArchivableSession[] }>("/v1/audit/archivable", { before, limit: 100 });
export const listArchives = (cursor?: string) =>
  get<Page<"archives", t.ArchivedSession>>("/v1/audit/archives", { cursor, limit: 100 });
export const archiveSessions = (body: { file: string; file_sha256: string; sessions: { session_id: string; seq: number }[] }) =>
  post<t.AuditRequest>("/v1/audit/archives", body);
export const returnEvents = (id: string, events: readonly { seq: number; body: string }[]) =>
  post<undefined>(path("/v1/audit/archives", id, "events"), { events });
export const restoreSession = (id: string) => post<t.AuditRequest>(path("/v1/audit/archives", id, "restore"));
export const getAuditRequest = (id: string) => get<t.AuditRequest>(path("/v1/audit/requests", id));
export const exportSession = (session_id: string) => getText("/v1/audit/export", { session_id });

export const listHolds = () => get<{ holds: t.LegalHold[] }>("/v1/privacy/holds");
export const addHold = (body: { subject: string; reason: string }) => post<t.LegalHold>("/v1/privacy/holds", body);
export const removeHold = (person: string) => {
  const [, issuer = "", subject = ""] = person.split("/").map((part) => part.replaceAll("%2F", "/").replaceAll("%25", "%"));
  return remove<undefined>(address("/v1/privacy/holds", { subject, issuer }));
};
export const listRetention = () => get<{ policies: t.RetentionPolicy[] }>("/v1/privacy/retention");
export const planRetention = (kind: t.RetentionPolicy["kind"], days: number) =>
  get<t.RetentionPlan>("/v1/privacy/retention/plan", { kind, days });
export const askRetention = (body: { kind: t.RetentionPolicy["kind"]; days: number | null; reason: string }) =>
  post<t.PrivacyRequest>("/v1/privacy/retention", body);
