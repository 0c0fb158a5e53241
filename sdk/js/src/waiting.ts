/** How long to wait between attempts, and work that must end in time. */

const FIRST_MS = 100;
const MOST_MS = 5_000;

/** The reason of an attempt that took too long. */
export const TIMED_OUT = Symbol("timed out");

/**
 * Milliseconds before the next attempt: what the server asked for, and on top a random part of a time that doubles with
 * every attempt up to 5 s, so that many who were refused together do not come back together.
 */
export function pause(attempts: number, retryAfterMs: number, random: () => number = Math.random): number {
  return retryAfterMs + random() * Math.min(MOST_MS, FIRST_MS * 2 ** (attempts - 1));
}

/** Milliseconds that `Retry-After` asks for (RFC 9110, 10.2.3: seconds, or a date); 0 where it is missing or neither. */
export function retryAfter(header: string | null, now: number = Date.now()): number {
  const text = header?.trim() ?? "";
  if (/^\d+$/.test(text)) {
    return Number(text) * 1_000;
  }
  const date = /^[A-Z][a-z]{2},/.test(text) ? Date.parse(text) : NaN;
  return Number.isNaN(date) ? 0 : Math.max(0, date - now);
}

/** Waits. Rejects with the signal's reason as soon as it is aborted. */
export async function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  await within(ms, signal, () => new Promise<never>(() => {})).catch((reason: unknown) => {
    if (reason !== TIMED_OUT) {
      throw reason;
    }
  });
}

/**
 * Runs `work`, which is told to stop after `ms` or when `signal` is aborted. Rejects then at once, with `TIMED_OUT` or the
 * signal's reason, whether `work` stops or not.
 */
export async function within<T>(
  ms: number,
  signal: AbortSignal | undefined,
  work: (stop: AbortSignal) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let stop: (() => void) | undefined;
  const stopped = new Promise<never>((_, reject) => {
    const end = (reason: unknown): void => {
      reject(reason);
      controller.abort();
    };
    stop = () => end(signal?.reason);
    timer = setTimeout(() => end(TIMED_OUT), ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([stopped, work(controller.signal)]);
  } finally {
    clearTimeout(timer);
    if (stop) {
      signal?.removeEventListener("abort", stop);
    }
  }
}
