/** Forks as a tree. */

import type { LineageSession } from "../api/types";

export interface Branch {
  session: LineageSession;
  depth: number;
}

/** The sessions of a lineage, each after its parent, forks in the order of where they leave it. */
export function branches(sessions: readonly LineageSession[]): Branch[] {
  const known = new Set(sessions.map((one) => one.session_id));
  const parentOf = (one: LineageSession) =>
    one.parent_session_id !== null && known.has(one.parent_session_id) ? one.parent_session_id : null;
  const found: Branch[] = [];
  const place = (parent: string | null, depth: number) => {
    const own = sessions.filter((one) => parentOf(one) === parent);
    own.sort((a, b) => (a.forked_at_seq ?? 0) - (b.forked_at_seq ?? 0) || a.created_at.localeCompare(b.created_at));
    for (const session of own) {
      found.push({ session, depth });
      if (depth < sessions.length) place(session.session_id, depth + 1);
    }
  };
  place(null, 0);
  return found;
}
