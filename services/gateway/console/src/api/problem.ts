/** Problem documents (RFC 9457), and what a person can do about each. */

export interface FieldError {
  pointer: string;
  detail: string;
}

interface ProblemDocument {
  status: number;
  title: string;
  detail: string;
  code: string;
  errors?: FieldError[];
  trace_id?: string;
}

/** An answer that is a refusal, or no answer at all (`status` 0). */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  /** Stable, for programs. */
  readonly code: string;
  readonly title: string;
  readonly errors: readonly FieldError[];
  readonly traceId: string | null;
  readonly retryAfterS: number | null;

  constructor(problem: ProblemDocument, retryAfterS: number | null = null) {
    super(problem.detail);
    this.status = problem.status;
    this.code = problem.code;
    this.title = problem.title;
    this.errors = problem.errors ?? [];
    this.traceId = problem.trace_id ?? null;
    this.retryAfterS = retryAfterS;
  }

  /** What to do about it, where there is something to say beyond the detail. */
  get hint(): string | null {
    return HINTS[this.code] ?? HINTS_BY_STATUS[this.status] ?? null;
  }

  /** Whether the same request may succeed a little later. */
  get isTransient(): boolean {
    return this.code !== "parked" && (this.status === 0 || this.status === 429 || this.status >= 502);
  }
}

const HINTS: Record<string, string> = {
  run_in_progress: "Wait until the session's run has ended, or cancel it.",
  self_approval: "Somebody else has to decide: nobody approves what they asked for themselves.",
  own_edit: "Somebody else has to approve what you edited.",
  wrong_role: "Ask somebody with one of the roles that the policy names.",
  not_a_person: "Sign in as a person: keys of services can't decide.",
  stale_hash: "Look at what will be executed now, then decide again.",
  already_decided: "There is nothing left to decide.",
  late: "The deadline has passed; the action has to be requested again.",
  reason_required: "Say why.",
  parked: "An operator decides which history holds, by the command that the message names.",
  key_login_off: "Sign in with the identity provider.",
};

const HINTS_BY_STATUS: Record<number, string> = {
  0: "Check that the gateway is running; the page tries again by itself.",
  401: "Sign in again.",
  403: "Ask an administrator for the role that this requires.",
  404: "It may be of another tenant, or its address is mistyped.",
  413: "Send less, or in several parts.",
  429: "Wait a moment; the page tries again by itself.",
  502: "The gateway is starting or unavailable; try again in a moment.",
  503: "A part of the fleet is unavailable; try again in a moment.",
  504: "The answer took too long; try again in a moment.",
};

/** The error that a refused response stands for. */
export async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => "");
  return errorFrom(response.status, response.statusText, text, response.headers.get("Retry-After"));
}

/** The error that status, reason phrase and body of an answer stand for. */
export function errorFrom(status: number, phrase: string, body: string, retryAfter: string | null = null): ApiError {
  const seconds = retryAfter === null || retryAfter.trim() === "" ? Number.NaN : Number(retryAfter);
  return new ApiError(documentOf(status, phrase, body), Number.isFinite(seconds) ? seconds : null);
}

/** The error for a request that got no answer. */
export function noAnswer(): ApiError {
  return new ApiError({ status: 0, title: "No answer", detail: "The gateway does not answer.", code: "no_answer" });
}

/** Any thrown value as an `ApiError`, for showing. */
export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  const detail = error instanceof Error ? error.message : String(error);
  return new ApiError({ status: -1, title: "Something went wrong in this page", detail, code: "page" });
}

function documentOf(status: number, phrase: string, body: string): ProblemDocument {
  const fallback = {
    status,
    title: phrase || `Status ${status}`,
    detail: "The gateway refused this without saying why.",
    code: `status_${status}`,
  };
  const found = parsed(body);
  if (found === null) return fallback;
  return {
    status,
    title: text(found.title) ?? fallback.title,
    detail: text(found.detail) ?? fallback.detail,
    code: text(found.code) ?? fallback.code,
    errors: fieldErrors(found.errors),
    ...(text(found.trace_id) !== null && { trace_id: text(found.trace_id) ?? "" }),
  };
}

function parsed(body: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null;
  } catch {
    return null; // a proxy's page, say
  }
}

function text(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}

function fieldErrors(value: unknown): FieldError[] {
  if (!Array.isArray(value)) return [];
  return value.flatMap((one: unknown) => {
    const { pointer, detail } = (one ?? {}) as Record<string, unknown>;
    return typeof pointer === "string" && typeof detail === "string" ? [{ pointer, detail }] : [];
  });
}
