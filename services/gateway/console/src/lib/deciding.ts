/** Who may decide what, as far as the page can know; the API has the last word. */

import type { Approval, Decision, Me } from "../api/types";

/** Why somebody can't vote on this at all; null when they can. */
export function barredFrom(approval: Approval, me: Me, now: number): string | null {
  if (approval.status !== "pending") return `This is ${OUTCOMES[approval.status] ?? approval.status}: there is nothing left to decide.`;
  if (Date.parse(approval.deadline_at) <= now) return "The deadline has passed.";
  if (me.kind !== "person") return "Only people decide: this is the key of a service.";
  if (!me.roles.some((role) => approval.roles.includes(role))) {
    return `Policy asks for one of the roles ${approval.roles.join(", ")}.`;
  }
  const isOwn = approval.requested_by === me.subject || approval.on_behalf_of === me.subject;
  if (isOwn && approval.exclude_requester) return "You asked for this: somebody else decides.";
  return null;
}

const OUTCOMES: Record<string, string> = { timeout: "over: its deadline passed" };

/** Why one kind of vote is not open to somebody; null when it is. */
export function barredDecision(approval: Approval, me: Me, decision: Decision): string | null {
  if (decision === "edit" && approval.editable_args.length === 0) return "Policy lets nobody edit this.";
  if (decision !== "approve") return null;
  if (editorOf(approval) === me.subject) return "You edited this: somebody else approves it.";
  const hasVoted = approval.votes.some(
    (vote) => vote.subject === me.subject && vote.decision === "approve" && vote.content_hash === approval.content_hash,
  );
  return hasVoted ? "You approved exactly this already." : null;
}

/** Who edited last; null when nobody did. */
export function editorOf(approval: Approval): string | null {
  return approval.votes.findLast((vote) => vote.decision === "edit")?.subject ?? null;
}

/** Different people who approved exactly what would be executed now. */
export function approvalsOf(approval: Approval): number {
  const voters = approval.votes.filter(
    (vote) => vote.decision === "approve" && vote.content_hash === approval.content_hash,
  );
  return new Set(voters.map((vote) => vote.subject)).size;
}

/** Pending ones first, by deadline; then those that are decided, newest first. */
export function inOrder(approvals: readonly Approval[]): Approval[] {
  return approvals.toSorted((a, b) => {
    const aWaits = a.status === "pending";
    if (aWaits !== (b.status === "pending")) return aWaits ? -1 : 1;
    return aWaits ? Date.parse(a.deadline_at) - Date.parse(b.deadline_at) : Date.parse(b.created_at) - Date.parse(a.created_at);
  });
}
