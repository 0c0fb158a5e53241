/** Where to send and as whom: from arguments, else from the environment. */

import { HeraldError } from "./error.js";

/** A token, or a function that gets one. `Bearer ` in front is optional. */
export type TokenSource = string | (() => string | Promise<string>);

/** What `createClient` takes. What is left out comes from the environment or has a default. */
export interface ClientOptions {
  /** Herald's address, https only. Else `HERALD_URL`. */
  url?: string | undefined;
  /** Else `HERALD_TOKEN`. A function is called before every attempt; its tokens must be of one user. */
  token?: TokenSource | undefined;
  /** Else `HERALD_INSTANCE`. */
  instance?: string | undefined;
  /** Used instead of the global `fetch`. */
  fetch?: typeof globalThis.fetch | undefined;
  /** Milliseconds that one attempt may take: 5,000. */
  timeoutMs?: number | undefined;
  /** Milliseconds that everything may take, retries and waiting included: 30,000. */
  deadlineMs?: number | undefined;
  /** Most attempts after the first: 10. */
  retries?: number | undefined;
}

/** Options that were checked. */
export interface Settings {
  endpoint: string;
  token: TokenSource;
  instance: string;
  fetch: typeof globalThis.fetch;
  timeoutMs: number;
  deadlineMs: number;
  retries: number;
}

/** Timers take no more. */
const MOST_MS = 2_147_483_647;

/** Throws a `HeraldError` `CONFIGURATION` for what is missing or wrong. */
export function readSettings(options: ClientOptions): Settings {
  const fetch = options.fetch ?? globalThis.fetch;
  if (typeof fetch !== "function") {
    throw misconfigured("this runtime has no fetch: pass one");
  }
  const token = options.token ?? fromEnvironment("HERALD_TOKEN");
  if (token === undefined) {
    throw misconfigured("there is no token: pass one, or set HERALD_TOKEN");
  }
  return {
    endpoint: endpoint(options.url ?? fromEnvironment("HERALD_URL")),
    token,
    instance: instance(options.instance ?? fromEnvironment("HERALD_INSTANCE")),
    fetch,
    timeoutMs: figure("timeoutMs", options.timeoutMs ?? 5_000, 1),
    deadlineMs: figure("deadlineMs", options.deadlineMs ?? 30_000, 1),
    retries: figure("retries", options.retries ?? 10, 0),
  };
}

/** The bare token. Throws for what cannot stand in a header, because `fetch` would quote it in its error. */
export async function readToken(source: TokenSource): Promise<string> {
  const given: unknown = typeof source === "function" ? await source() : source;
  const token = typeof given === "string" ? given.trim().replace(/^bearer(\s+|$)/i, "") : "";
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw misconfigured("the token is empty, or has characters that no token has");
  }
  return token;
}

export function misconfigured(detail: string): HeraldError {
  return new HeraldError({ code: "CONFIGURATION", detail });
}

function endpoint(text: string | undefined): string {
  if (!text) {
    throw misconfigured("there is no URL: pass one, or set HERALD_URL");
  }
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw misconfigured("the URL is none: give one such as https://localhost:8443");
  }
  if (url.protocol !== "https:") {
    throw misconfigured("the URL must begin with https://");
  }
  if (url.username || url.password || url.search || url.hash) {
    throw misconfigured("the URL must have no credentials, query or fragment");
  }
  return `${url.origin}${url.pathname.replace(/\/+$/, "")}/v1/messages`;
}

function instance(text: string | undefined): string {
  if (!text) {
    throw misconfigured("there is no instance: pass one, or set HERALD_INSTANCE");
  }
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(text)) {
    throw misconfigured("the instance must be 1 to 64 of the characters A-Z a-z 0-9 _ -");
  }
  return text;
}

function figure(name: string, value: number, least: number): number {
  if (!Number.isInteger(value) || value < least || value > MOST_MS) {
    throw misconfigured(`${name} must be a whole number from ${least} to ${MOST_MS}`);
  }
  return value;
}

/** Read when it is needed; undefined where the runtime has no `process`, and for an empty variable. */
function fromEnvironment(name: string): string | undefined {
  const { process } = globalThis as { process?: { env?: Record<string, string | undefined> } };
  return process?.env?.[name] || undefined;
}
