/** Sends a message once: every attempt carries the same id, which Herald remembers. */

import { HeraldError, type Problem } from "./error.js";
import { type ClientOptions, type Settings, readSettings, readToken } from "./settings.js";
import { TIMED_OUT, pause, retryAfter, sleep, within } from "./waiting.js";

/** What became of a message. Counted are connections; `matched` = `queued` + `dropped`. */
export interface Receipt {
  id: string;
  /** Its place in the instance's order. */
  cursor: string;
  /** Whom it was for, such as `["group:eng", "user:eng"]`. */
  audience: string[];
  matched: number;
  queued: number;
  dropped: number;
  /** Whether an earlier attempt had sent it; the counts are then those of that attempt. */
  duplicate: boolean;
  /** Present where a part of the server counted for too long; the counts are then too low. */
  incomplete?: true;
}

/** What may be said about a message beyond its channel and itself. */
export interface SendOptions {
  /** 1 to 128 of the characters `A-Z a-z 0-9 . _ : -`, unique in the instance. Left out, a random one. */
  id?: string | undefined;
  /** Seconds that it is worth sending to clients that resume. */
  ttl?: number | undefined;
  /** Who does not get it although it is for them. */
  exclude?: { users?: string[] | undefined; connections?: string[] | undefined } | undefined;
  /** Ends the sending: it rejects with the signal's reason. The message may have been sent. */
  signal?: AbortSignal | undefined;
}

/** Sends `message`, any JSON, to `channel`: `ALL`, `user:ID`, `group:ID` or `channel:NAME`. */
export type SendRealtimeMessage = (channel: string, message: unknown, options?: SendOptions) => Promise<Receipt>;

/** One message on its way. */
interface Sending {
  settings: Settings;
  id: string;
  /** Written once, so that every attempt asks for the same, whatever becomes of the caller's objects. */
  body: string;
}

/** What is said beside the cause of an earlier attempt. */
const LATER = "a later attempt had no answer in time";

/** How an attempt ended. */
type Ended = { receipt: Receipt } | { error: HeraldError; retry: boolean; afterMs: number };

/** A function that sends with these options. They and the environment are read at every call. */
export function createClient(options: ClientOptions = {}): SendRealtimeMessage {
  return async (channel, message, sendOptions = {}) => {
    const { ttl, exclude, signal } = sendOptions;
    const id = sendOptions.id ?? crypto.randomUUID();
    if (JSON.stringify(message) === undefined) {
      throw new TypeError("the message is not JSON");
    }
    const body = JSON.stringify({ channel, message, id, ttl, exclude });
    return send({ settings: readSettings(options), id, body }, signal);
  };
}

async function send(sending: Sending, signal: AbortSignal | undefined): Promise<Receipt> {
  const { timeoutMs, deadlineMs, retries } = sending.settings;
  const deadline = performance.now() + deadlineMs;
  let before: HeraldError | undefined;
  for (let attempts = 1; ; attempts++) {
    const ms = Math.min(timeoutMs, deadline - performance.now());
    const ended = await attempt(sending, ms, signal);
    if ("receipt" in ended) {
      return ended.receipt;
    }
    const error = withCauseBefore(ended.error, before);
    const wait = pause(attempts, ended.afterMs);
    if (!ended.retry || attempts > retries || performance.now() + wait >= deadline) {
      throw error;
    }
    before = error;
    await sleep(wait, signal);
  }
}

/**
 * An attempt that had no answer in time knows less than the one before it, whose cause is named beside it. Where that one
 * did not reach the server either, the whole is `UNREACHABLE`; where it was refused, the whole stays `TIMEOUT`, since the
 * last attempt may have sent the message.
 */
function withCauseBefore(error: HeraldError, before: HeraldError | undefined): HeraldError {
  if (error.code !== "TIMEOUT" || before === undefined || before.code === "TIMEOUT") {
    return error;
  }
  if (before.code === "UNREACHABLE") {
    const detail = before.detail.includes(LATER) ? before.detail : `${before.detail}; ${LATER}`;
    return new HeraldError({ code: before.code, detail, id: before.id });
  }
  const detail = `${error.detail}; the attempt before was refused: ${before.code}: ${before.detail}`;
  return new HeraldError({ code: error.code, detail, id: error.id });
}

/** Asks once. Rejects only with the signal's reason, and with what the token's function throws. */
async function attempt(sending: Sending, ms: number, signal: AbortSignal | undefined): Promise<Ended> {
  const { id, settings } = sending;
  const ended = within(ms, signal, async (stop) => {
    const token = await readToken(settings.token);
    try {
      return await ask(sending, token, stop);
    } catch (error) {
      return unreachable(error, token, id);
    }
  });
  return ended.catch((error: unknown) => {
    if (error !== TIMED_OUT) {
      throw error;
    }
    return again(new HeraldError({ code: "TIMEOUT", detail: "there is no answer in time", id }));
  });
}

function again(error: HeraldError, afterMs = 0): Ended {
  return { error, retry: true, afterMs };
}

/** What `fetch` throws is not handed on, because it may hold the request. */
function unreachable(thrown: unknown, token: string, id: string): Ended {
  const { message, cause } = thrown instanceof Error ? thrown : new Error("fetch failed");
  const inner = (cause ?? {}) as { code?: unknown; message?: unknown };
  const parts = [inner.code, inner.message].filter((part) => typeof part === "string" && part !== "");
  const why = parts.length === 0 ? message : `${message} (${parts.join(", ")})`;
  const error = new HeraldError({ code: "UNREACHABLE", detail: `there is no answer: ${hidden(why, token)}`, id });
  // A certificate that is not trusted will not be trusted in a second.
  return { error, retry: !/CERT|VERIFY/.test(String(inner.code)), afterMs: 0 };
}

async function ask({ settings, id, body }: Sending, token: string, signal: AbortSignal): Promise<Ended> {
  const { fetch } = settings;
  const response = await fetch(settings.endpoint, {
    method: "POST",
    headers: {
      authorization: `Bearer ${token}`,
      instance: settings.instance,
      "content-type": "application/json",
    },
    body,
    // A redirect could lead away from https.
    redirect: "manual",
    signal,
  });
  const { status } = response;
  const text = await response.text();
  if (status === 202) {
    const receipt = parsed(text);
    if (typeof receipt?.["id"] === "string") {
      return { receipt: receipt as unknown as Receipt };
    }
  }
  const error = refusal(status, parsed(text, (value) => hidden(value, token)), id);
  if (status === 429 || status === 503) {
    return again(error, retryAfter(response.headers.get("retry-after")));
  }
  return { error, retry: false, afterMs: 0 };
}

function refusal(status: number, problem: Problem | undefined, id: string): HeraldError {
  if (typeof problem?.code === "string") {
    return new HeraldError({ code: problem.code, detail: problem.detail ?? problem.code, status, problem, id });
  }
  const detail = `the answer has status ${status} and is not Herald's`;
  return new HeraldError({ code: "UNEXPECTED_ANSWER", detail, status, problem, id });
}

/** The object that a text is, its strings changed by `each`; undefined for everything else. */
function parsed(text: string, each: (value: string) => string = (value) => value): Problem | undefined {
  try {
    const value: unknown = JSON.parse(text, (_, one: unknown) => (typeof one === "string" ? each(one) : one));
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Problem) : undefined;
  } catch {
    return undefined;
  }
}

function hidden(text: string, token: string): string {
  return text.replaceAll(token, "[token]");
}
