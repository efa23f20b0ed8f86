/** Who is signed in, and what their roles let them do. The API forbids the rest anyway; this only hides it. */

import { computed, signal } from "@preact/signals";
import * as api from "../api/calls";
import { whenSignedOut } from "../api/client";
import { ApiError } from "../api/problem";
import type { AuthConfig, Me } from "../api/types";
import { safeAddress } from "./markdown";
import { currentAddress, currentPath, navigate } from "./router";

export type SignIn = "unknown" | "in" | "out" | "failed";

export const me = signal<Me | null>(null);
export const signIn = signal<SignIn>("unknown");
export const failure = signal<unknown>(null);
export const config = signal<AuthConfig>({
  key_login: true,
  oidc: false,
  trace_url_template: null,
  temporal_ui_url: null,
});

const has = (...roles: string[]) => me.value?.roles.some((role) => roles.includes(role)) ?? false;

/** May ask, cancel, fork, roll back, upload, redrive. */
export const mayOperate = computed(() => has("operator", "admin"));
/** May approve the signing keys of others. */
export const isAdmin = computed(() => has("admin"));
/** Has a role that approvals commonly ask for; each approval names its own. */
export const mayApprove = computed(() => has("approver", "admin"));

/** Looks up who is signed in. */
export async function startAccount(): Promise<void> {
  whenSignedOut(signedOut);
  signIn.value = "unknown";
  try {
    const [found, who] = await Promise.allSettled([api.authConfig(), api.me()]);
    if (found.status === "rejected") throw found.reason;
    config.value = found.value;
    if (who.status === "rejected") throw who.reason;
    me.value = who.value;
    signIn.value = "in";
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      signedOut();
      return;
    }
    failure.value = error;
    signIn.value = "failed";
  }
}

function signedOut(): void {
  me.value = null;
  signIn.value = "out";
  if (currentPath.value !== "/login") {
    const next = currentAddress.value;
    navigate(next === "/" ? "/login" : `/login?next=${encodeURIComponent(next)}`, { replace: true });
  }
}

export async function logIn(key: string): Promise<void> {
  await api.login(key);
  me.value = await api.me();
  signIn.value = "in";
}

export async function logOut(): Promise<void> {
  await api.logout();
  me.value = null;
  signIn.value = "out";
  navigate("/login");
}

/** The address of a trace, where a viewer is configured. */
export function traceAddress(traceId: string): string | null {
  const template = config.value.trace_url_template;
  return template === null ? null : safeAddress(template.replaceAll("{trace_id}", encodeURIComponent(traceId)));
}

/** The address of a workflow in the Temporal UI, where it is configured. */
export function workflowAddress(workflowId: string): string | null {
  const root = config.value.temporal_ui_url;
  return root === null ? null : safeAddress(`${root.replace(/\/$/, "")}/workflows/${encodeURIComponent(workflowId)}`);
}
