/** An error as it travels between this process and the sidecar. */
export interface Failure {
  type: string;
  message: string;
  retryable?: boolean;
  retry_after_s?: number | null;
  kind?: "failed" | "pending" | "cancelled";
}

/** Something failed; the same may succeed later, unless it is a `Refused`. `name` is the error's type in the fleet. */
export class FlotillaError extends Error {
  readonly retryAfterS: number | undefined;

  constructor(message: string, options: { name?: string; retryAfterS?: number | undefined } & ErrorOptions = {}) {
    super(message, options);
    this.name = options.name ?? new.target.name;
    this.retryAfterS = options.retryAfterS;
  }
}

/** Nothing was done, and the same input would be refused again: the task is not tried again. A tool that throws it says
 * that it had no effect. */
export class Refused extends FlotillaError {}

/** The task waits for people. Let it pass: the run of the task is over, whatever its function does next. */
export class ApprovalPending extends FlotillaError {}

/** Nobody wants the task any more. */
export class TaskCancelled extends FlotillaError {}

const KINDS = { pending: ApprovalPending, cancelled: TaskCancelled } as const;

/** The error that the sidecar describes. */
export function errorOf(failure: Failure): FlotillaError {
  const special = failure.kind === "pending" || failure.kind === "cancelled" ? KINDS[failure.kind] : undefined;
  if (special) return new special(failure.message);
  const kind = failure.retryable === false ? Refused : FlotillaError;
  return new kind(failure.message, { name: failure.type, retryAfterS: failure.retry_after_s ?? undefined });
}

/** Anything thrown, as the sidecar gets it. */
export function failureOf(thrown: unknown): Failure {
  const error = thrown instanceof Error ? thrown : new Error(String(thrown));
  return {
    type: error.name === "Error" ? error.constructor.name : error.name,
    message: error.message || error.name,
    retryable: !(error instanceof Refused),
    retry_after_s: error instanceof FlotillaError ? (error.retryAfterS ?? null) : null,
    kind: error instanceof TaskCancelled ? "cancelled" : "failed",
  };
}
