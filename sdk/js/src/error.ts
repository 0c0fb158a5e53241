/** What went wrong, for people and for programs. */

/** Herald's answer to a refused request (RFC 9457). */
export interface Problem {
  type?: string;
  title?: string;
  status?: number;
  detail?: string;
  code?: string;
  /** What is allowed, and what was given. */
  limit?: number;
  actual?: number;
  retryAfterSeconds?: number;
  errors?: { pointer: string; detail: string }[];
  [figure: string]: unknown;
}

/** What a `HeraldError` is made of. */
export interface ErrorParts {
  code: string;
  detail: string;
  status?: number | undefined;
  problem?: Problem | undefined;
  id?: string | undefined;
}

/** A message was refused, or nobody knows what became of it. Holds no token. */
export class HeraldError extends Error {
  override readonly name = "HeraldError";
  /**
   * Herald's code, such as `INVALID_REQUEST`; or one of this package: `CONFIGURATION`, `TIMEOUT`, `UNREACHABLE`,
   * `UNEXPECTED_ANSWER`.
   */
  readonly code: string;
  /** The HTTP status; undefined where there was no answer. */
  readonly status: number | undefined;
  /** One sentence. */
  readonly detail: string;
  /** The whole problem document, if the answer was one. */
  readonly problem: Problem | undefined;
  /** The message's id. To try again later without sending twice, pass it as `id`. */
  readonly id: string | undefined;

  constructor(parts: ErrorParts) {
    super(`${parts.code}: ${parts.detail}`);
    this.code = parts.code;
    this.detail = parts.detail;
    this.status = parts.status;
    this.problem = parts.problem;
    this.id = parts.id;
  }
}
