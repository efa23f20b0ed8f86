/** A refusal or failure of the API: a problem document (RFC 9457), or why there was none. */
export class FlotillaError extends Error {
  override readonly name = "FlotillaError";

  constructor(
    /** Of the answer; 0 where there was none. */
    readonly status: number,
    /** Stable, for programs: `run_in_progress`, `too_many`, … */
    readonly code: string,
    message: string,
    /** Seconds to wait, where the gateway names them. */
    readonly retryAfterS: number | null = null,
    /** The whole problem document. */
    readonly problem: Readonly<Record<string, unknown>> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
  }

  /** Whether the same request may succeed in a moment. */
  get isTransient(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

/** The error that an answer of 400 and more is. */
export async function errorOf(response: Response): Promise<FlotillaError> {
  const after = Number(response.headers.get("Retry-After") ?? Number.NaN);
  const problem = await response.json().then(recordOf, () => ({}) as Record<string, unknown>);
  const code = typeof problem.code === "string" ? problem.code : "no_problem_document";
  const detail = typeof problem.detail === "string" ? problem.detail : `HTTP ${response.status}`;
  return new FlotillaError(response.status, code, detail, Number.isFinite(after) ? after : null, problem);
}

/** The error of a request that got no answer, or half of one. */
export function noAnswer(cause: unknown): FlotillaError {
  return new FlotillaError(0, "no_answer", "the gateway does not answer", null, {}, { cause });
}

function recordOf(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : {};
}
