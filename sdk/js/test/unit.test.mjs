// The package against a `fetch` of the tests' own: what stands in a request, when there is another, and what an error says.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";
import { HeraldError, createClient, sendRealtimeMessage } from "../dist/index.js";
import { pause, retryAfter } from "../dist/waiting.js";

const TOKEN = "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl";
const RECEIPT = { id: "m", cursor: "c", audience: ["ALL"], matched: 1, queued: 1, dropped: 0, duplicate: false };
const REACHABLE = { url: "https://herald.test", token: TOKEN, instance: "main" };

const receipt = () => Response.json(RECEIPT, { status: 202 });
const problem = (status, code, headers = {}) => () =>
  Response.json({ status, code, detail: `it is ${code}`, limit: 1 }, { status, headers });
const broken = () => {
  throw new TypeError("fetch failed", { cause: Object.assign(new Error("reset"), { code: "ECONNRESET" }) });
};
const silent = () => new Promise(() => {});

/** A client whose attempts are answered one after the other; the last answer stays. */
function client(answers, options = {}) {
  const requests = [];
  const fetch = async (url, init) => {
    requests.push({ url, ...init, json: JSON.parse(init.body) });
    return answers[Math.min(requests.length, answers.length) - 1](init);
  };
  return { send: createClient({ ...REACHABLE, fetch, ...options }), requests };
}

async function failure(promise) {
  const error = await promise.then(() => assert.fail("it should fail"), (thrown) => thrown);
  assert.ok(!`${inspect(error, { depth: 9, showHidden: true })}${JSON.stringify(error)}`.includes(TOKEN));
  return error;
}

async function refused(promise, code) {
  const error = await failure(promise);
  assert.ok(error instanceof HeraldError, inspect(error));
  assert.equal(error.code, code);
  return error;
}

test("the request is what the API documents", async () => {
  const { send, requests } = client([receipt], { url: "https://herald.test/base/", token: `Bearer ${TOKEN}` });
  const options = { id: "order-1", ttl: 5, exclude: { users: ["bob"] } };
  assert.deepEqual(await send("user:alice", { n: 1 }, options), RECEIPT);
  const [{ url, method, headers, json, redirect }] = requests;
  assert.deepEqual([url, method, redirect], ["https://herald.test/base/v1/messages", "POST", "manual"]);
  assert.deepEqual(headers, { authorization: `Bearer ${TOKEN}`, instance: "main", "content-type": "application/json" });
  assert.deepEqual(json, { channel: "user:alice", message: { n: 1 }, ...options });
});

test("every attempt has the same id and the same body, and a token of its own", async () => {
  let tokens = 0;
  const unavailable = problem(503, "OVERLOADED");
  const { send, requests } = client([broken, unavailable, problem(429, "RATE_LIMITED"), receipt], {
    token: async () => `token-${++tokens}`,
  });
  const message = { n: 1 };
  const sent = send("ALL", message);
  message.n = 2;
  await sent;
  assert.equal(new Set(requests.map(({ body }) => body)).size, 1);
  assert.deepEqual(requests[0].json.message, { n: 1 });
  assert.match(requests[0].json.id, /^[0-9a-f-]{36}$/);
  assert.deepEqual(requests.map(({ headers }) => headers.authorization), [1, 2, 3, 4].map((n) => `Bearer token-${n}`));
});

test("null is a message; what is no JSON is not sent", async () => {
  const { send, requests } = client([receipt]);
  await send("ALL", null);
  assert.equal(requests[0].json.message, null);
  for (const message of [undefined, () => {}, 1n]) {
    assert.ok((await failure(send("ALL", message))) instanceof TypeError);
  }
  assert.equal(requests.length, 1);
});

test("null as the id is none", async () => {
  const { send, requests } = client([receipt]);
  await send("ALL", 1, { id: null });
  assert.match(requests[0].json.id, /^[0-9a-f-]{36}$/);
});

test("other statuses are told at once", async () => {
  for (const [status, code] of [[401, "TOKEN_EXPIRED"], [409, "ID_REUSED"], [422, "INVALID_REQUEST"], [500, "INTERNAL"]]) {
    const { send, requests } = client([problem(status, code)]);
    const error = await refused(send("ALL", 1, { id: "mine" }), code);
    assert.deepEqual([error.status, error.detail, error.problem.limit, error.id], [status, `it is ${code}`, 1, "mine"]);
    assert.equal(error.message, `${code}: it is ${code}`);
    assert.equal(requests.length, 1);
  }
});

test("an answer that is not Herald's is an error", async () => {
  const answers = [
    () => new Response("<html>", { status: 202 }),
    () => new Response("[]", { status: 202 }),
    () => Response.json({ ok: true }, { status: 200 }),
    () => new Response(null, { status: 302, headers: { location: "http://elsewhere.test/" } }),
    () => new Response("bad gateway", { status: 502 }),
  ];
  for (const answer of answers) {
    const { send, requests } = client([answer]);
    await refused(send("ALL", 1), "UNEXPECTED_ANSWER");
    assert.equal(requests.length, 1);
  }
});

test("an answer that breaks off is no answer", async () => {
  const breaking = () => new Response(new ReadableStream({ pull: (body) => body.error(new TypeError("terminated")) }), { status: 202 });
  const { send, requests } = client([breaking, receipt]);
  assert.deepEqual(await send("ALL", 1), RECEIPT);
  assert.equal(requests.length, 2);
});

test("it gives up after so many retries, with the last error", async () => {
  const { send, requests } = client([broken, problem(503, "OVERLOADED")], { retries: 2 });
  assert.equal((await refused(send("ALL", 1), "OVERLOADED")).status, 503);
  assert.equal(requests.length, 3);
  const once = client([broken], { retries: 0 });
  const error = await refused(once.send("ALL", 1, { id: "mine" }), "UNREACHABLE");
  assert.deepEqual([error.status, error.id], [undefined, "mine"]);
  assert.equal(error.detail, "there is no answer: fetch failed (ECONNRESET, reset)");
  assert.equal(once.requests.length, 1);
});

test("a certificate that is not trusted is told at once", async () => {
  const untrusted = () => {
    const cause = Object.assign(new Error("self-signed"), { code: "SELF_SIGNED_CERT_IN_CHAIN" });
    throw new TypeError("fetch failed", { cause });
  };
  const { send, requests } = client([untrusted]);
  assert.match((await refused(send("ALL", 1), "UNREACHABLE")).detail, /SELF_SIGNED/);
  assert.equal(requests.length, 1);
});

test("it does not wait for what comes after the deadline", async () => {
  const { send, requests } = client([problem(429, "RATE_LIMITED", { "retry-after": "60" })]);
  assert.equal((await refused(send("ALL", 1), "RATE_LIMITED")).status, 429);
  assert.equal(requests.length, 1);
});

test("an attempt that takes too long is made again, until the deadline", async () => {
  const { send, requests } = client([silent, receipt], { timeoutMs: 10 });
  assert.deepEqual(await send("ALL", 1), RECEIPT);
  assert.ok(requests.length >= 2 && requests[0].signal.aborted);
  const never = client([silent], { deadlineMs: 20 });
  await refused(never.send("ALL", 1), "TIMEOUT");
  await refused(client([receipt], { token: silent, deadlineMs: 20 }).send("ALL", 1), "TIMEOUT");
});

test("a deadline that strikes during a later attempt names the cause that was known", async () => {
  const gone = () => Promise.reject(Object.assign(new Error("fetch failed"), { cause: { code: "ECONNREFUSED" } }));
  const unreachable = client([gone, silent], { deadlineMs: 400, timeoutMs: 10, retries: 2 });
  const error = await refused(unreachable.send("ALL", 1), "UNREACHABLE");
  assert.match(error.detail, /ECONNREFUSED.*a later attempt had no answer in time$/);
  const limited = client([problem(429, "RATE_LIMITED", {}), silent], { deadlineMs: 400, timeoutMs: 10, retries: 1 });
  const unknown = await refused(limited.send("ALL", 1), "TIMEOUT");
  assert.match(unknown.detail, /in time; the attempt before was refused: RATE_LIMITED/);
});

test("a signal ends the sending in every state", async () => {
  const reason = new Error("enough");
  const early = client([receipt]);
  assert.equal(await failure(early.send("ALL", 1, { signal: AbortSignal.abort(reason) })), reason);
  assert.equal(early.requests.length, 0);

  const asking = new AbortController();
  const waiting = client([() => (asking.abort(reason), silent())]);
  assert.equal(await failure(waiting.send("ALL", 1, { signal: asking.signal })), reason);

  const pausing = new AbortController();
  const busy = client([problem(503, "OVERLOADED", { "retry-after": "20" })]);
  const sent = failure(busy.send("ALL", 1, { signal: pausing.signal }));
  setImmediate(() => pausing.abort(reason));
  assert.equal(await sent, reason);
  assert.equal(busy.requests.length, 1);
});

test("a token's error is handed on", async () => {
  const reason = new Error("the vault is sealed");
  const { send, requests } = client([receipt], { token: () => Promise.reject(reason) });
  assert.equal(await failure(send("ALL", 1)), reason);
  assert.equal(requests.length, 0);
});

test("no error holds the token, whoever quotes it", async () => {
  const quoting = () => {
    throw Object.assign(new TypeError(`bad header ${TOKEN}`), { config: TOKEN, cause: new Error(`Bearer ${TOKEN}`) });
  };
  assert.match((await refused(client([quoting], { retries: 0 }).send("ALL", 1), "UNREACHABLE")).detail, /\[token\]/);
  const echoing = () => Response.json({ code: "X", detail: TOKEN, errors: [{ detail: TOKEN }] }, { status: 400 });
  assert.equal((await refused(client([echoing]).send("ALL", 1), "X")).detail, "[token]");
  for (const token of ["", "  ", "Bearer ", `${TOKEN}\n${TOKEN}`, "ü", 5, () => undefined]) {
    const { send, requests } = client([receipt], { token });
    await refused(send("ALL", 1), "CONFIGURATION");
    assert.equal(requests.length, 0);
  }
});

test("only whole and safe settings are taken", async () => {
  const wrong = [
    { url: "http://herald.test" },
    { url: "wss://herald.test" },
    { url: "herald" },
    { url: `https://user:${TOKEN}@herald.test` },
    { url: `https://herald.test/?authorization=${TOKEN}` },
    { instance: "a b" },
    { timeoutMs: 0 },
    { deadlineMs: 2 ** 31 },
    { retries: -1 },
    { retries: 0.5 },
    { fetch: 1 },
  ];
  for (const options of wrong) {
    const { send, requests } = client([receipt], options);
    await refused(send("ALL", 1), "CONFIGURATION");
    assert.equal(requests.length, 0);
  }
});

test("the environment is read at every call, and need not be there", async (t) => {
  const { process, fetch } = globalThis;
  t.after(() => Object.assign(globalThis, { process, fetch }));
  const urls = [];
  globalThis.fetch = async (url) => (urls.push(url), receipt());
  for (const env of [{}, { HERALD_URL: "https://a.test", HERALD_TOKEN: TOKEN, HERALD_INSTANCE: "" }]) {
    globalThis.process = { env };
    await refused(sendRealtimeMessage("ALL", 1), "CONFIGURATION");
  }
  for (const host of ["a", "b"]) {
    globalThis.process = { env: { HERALD_URL: `https://${host}.test`, HERALD_TOKEN: TOKEN, HERALD_INSTANCE: "main" } };
    assert.deepEqual(await sendRealtimeMessage("ALL", { hello: "world!" }), RECEIPT);
  }
  assert.deepEqual(urls, ["https://a.test/v1/messages", "https://b.test/v1/messages"]);
  globalThis.process = undefined;
  await refused(sendRealtimeMessage("ALL", 1), "CONFIGURATION");
  assert.deepEqual(await createClient(REACHABLE)("ALL", 1), RECEIPT);
  globalThis.fetch = undefined;
  await refused(createClient(REACHABLE)("ALL", 1), "CONFIGURATION");
});

test("pauses double, have a cap, and never fall below Retry-After", () => {
  const longest = (attempts) => pause(attempts, 0, () => 1);
  assert.deepEqual([1, 2, 3, 6, 7, 1_000].map(longest), [100, 200, 400, 3_200, 5_000, 5_000]);
  assert.equal(pause(3, 0, () => 0), 0);
  assert.deepEqual([pause(1, 2_000, () => 0), pause(1, 2_000, () => 1)], [2_000, 2_100]);
});

test("Retry-After is seconds or a date", () => {
  const now = Date.parse("Tue, 03 Mar 2026 10:00:00 GMT");
  const read = (text) => retryAfter(text, now);
  assert.deepEqual([read("0"), read(" 7 "), read("Tue, 03 Mar 2026 10:00:05 GMT")], [0, 7_000, 5_000]);
  assert.deepEqual([read("Tue, 03 Mar 2026 09:00:00 GMT"), read(null), read("soon"), read("-1")], [0, 0, 0, 0]);
});
