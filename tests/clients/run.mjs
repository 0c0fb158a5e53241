// Drives Chromium through the pages that people use: `node run.mjs sample|refused|stream|resume|pages`.
//
// Reads HERALD_URL, HERALD_CLIENT_TOKEN, HERALD_PUBLISH_TOKEN, HERALD_INSTANCE, and optionally CHROMIUM (the browser's
// path) and SHOTS (a directory for screenshots). Prints one JSON line of what was seen and exits with 0; otherwise a
// sentence and what was seen, and exits with 1. Tokens are printed as <token>.

import { chromium } from "playwright-core";
import { randomUUID } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import net from "node:net";
import path from "node:path";

const PATIENCE_MS = 15_000;
/** The sample sends PING every 30 s. */
const KEEP_ALIVE_PATIENCE_MS = 45_000;
/** The whole run ends by then, whatever hangs. */
const RUN_MS = 120_000;
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"];
const SUBJECTS = { sample, refused, stream, resume, pages };

const server = new URL(needed("HERALD_URL"));
const clientToken = bare(needed("HERALD_CLIENT_TOKEN"));
const publishToken = bare(needed("HERALD_PUBLISH_TOKEN"));
const instance = needed("HERALD_INSTANCE");
const seen = { subject: process.argv[2] };

await main();

async function main() {
  const subject = SUBJECTS[seen.subject];
  if (!subject) end(`The subject is one of ${Object.keys(SUBJECTS).join(", ")}.`);
  setTimeout(() => end(`The run took more than ${RUN_MS / 1_000} s.`), RUN_MS).unref();
  let browser;
  try {
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
    seen.browser = browser.version();
    const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 900 } });
    context.setDefaultTimeout(PATIENCE_MS);
    await subject(context);
  } catch (error) {
    await browser?.close().catch(() => {});
    end(error.message);
  }
  await browser.close();
  console.log(redact(JSON.stringify(seen)));
  process.exit(0);
}

/** The product page's sample: it shows what is published, and its own PING is answered. */
async function sample(context) {
  const page = await openSample(context, clientToken);
  await page.until("the sample shows CONNECTED", () => shown(page, "PULL ->", (frame) => frame.type === "CONNECTED"));
  const data = { hello: "world!", nonce: randomUUID() };
  seen.published = await publish({ channel: "ALL", message: data });
  check(seen.published.status === 202, "The publish is answered with 202.");
  check(seen.published.body.queued >= 1, "The publish counts the sample as a receiver.");
  const message = (frame) => frame.type === "MESSAGE" && JSON.stringify(frame.data) === JSON.stringify(data);
  await page.until("the sample shows the message", () => shown(page, "PULL ->", message));
  const ping = (frame) => frame.type === "PING";
  await page.until("the sample sends PING", () => shown(page, "PUSH ->", ping), KEEP_ALIVE_PATIENCE_MS);
  await page.until("the sample shows PONG", () => shown(page, "PULL ->", (frame) => frame.type === "PONG"));
  await shoot(page, "sample");
  check(seen.frames.some((frame) => frame.received?.includes('"PONG"')), "The socket itself carried the PONG.");
  check(seen.console.join() === "log: WebSocket is open now.", "The sample's console says that it is open, and nothing else.");
  check(seen.errors.length === 0, "The sample throws nothing.");
}

/** The same page with a bad token: a browser sees the close code. */
async function refused(context) {
  await context.addInitScript(() => {
    window.closes = [];
    window.WebSocket = class extends WebSocket {
      constructor(...parameters) {
        super(...parameters);
        this.addEventListener("close", ({ code, reason, wasClean }) => window.closes.push({ code, reason, wasClean }));
      }
    };
  });
  const page = await openSample(context, "not.a.token");
  await page.until("the socket is closed", async () => {
    seen.closes = await page.evaluate(() => window.closes);
    return seen.closes.length > 0;
  });
  const [close] = seen.closes;
  check(close.code === 4401 && close.reason.startsWith("TOKEN_INVALID: "), "The socket is closed with 4401 TOKEN_INVALID.");
  check(close.wasClean, "The close is clean.");
  await page.until("the sample notices it", () => seen.console.includes("log: WebSocket is closed now."));
}

/** A page's EventSource: it receives, and when it is cut off it connects again by itself and misses nothing. */
async function stream(context) {
  const proxy = await openProxy();
  const query = new URLSearchParams({ authorization: clientToken, instance });
  const text = (await readFile(new URL("pages/stream.html", import.meta.url), "utf8"))
    .replace("https://localhost:8443/v1/stream?", () => `https://localhost:${proxy.port}/v1/stream?${query}`);
  const page = await openPage(context, text);
  const until = (what, holds) => page.until(what, async () => {
    seen.events = await page.evaluate(() => window.events);
    return holds(seen.events.filter(({ type }) => type === "CONNECTED"), seen.events.filter(({ type }) => type === "message"));
  });
  const send = async (data) => check((await publish({ channel: "ALL", message: data })).status === 202, "The publish is answered with 202.");
  await until("the page is connected", (connected) => connected.length === 1);
  await send({ number: 1 });
  await until("the page shows the first message", (_, messages) => messages.length === 1);
  proxy.cut();
  await until("the page notices that it was cut off", () => seen.events.some(({ type }) => type === "error"));
  await send({ number: 2 });
  await until("the page connects again", (connected) => connected.length === 2);
  await send({ number: 3 });
  await until("the page shows every message", (_, messages) => messages.length === 3);
  const [connected, messages] = ["CONNECTED", "message"].map((type) => seen.events.filter((event) => event.type === type));
  check(connected[1].frame.recovered === true, "The second stream went on where the first was cut.");
  check(messages.map(({ frame }) => frame.data.number).join() === "1,2,3", "Each message came once and in order.");
  check([...connected, ...messages].every(({ id, frame }) => id === frame.cursor), "The cursor is the event's id.");
  check(seen.requests.filter((url) => url.includes("/v1/stream")).length === 2, "The page asked twice.");
  proxy.close();
}

/** The ten lines of the README, as they stand there: a client that keeps the cursor misses nothing while it is cut off. */
async function resume(context) {
  const proxy = await openProxy();
  const readme = await readFile(new URL("../../README.md", import.meta.url), "utf8");
  const lines = readme.split("```js\n")[1].split("```")[0]
    .replace("localhost:8443/?instance=demo", () => `localhost:${proxy.port}/?instance=${instance}`);
  const token = JSON.stringify(clientToken);
  const page = await openPage(context, `<!doctype html><title>Resuming</title><script>const token = ${token};\n${lines}</script>`);
  const send = async (data) => check((await publish({ channel: "ALL", message: data })).body.queued <= 1, "Nobody else is connected.");
  const says = (number) => () => seen.console.includes(`log: ALL ${number}`);
  const opened = () => seen.frames.filter(({ received }) => received?.includes('"CONNECTED"')).length;
  await page.until("the page is connected", () => opened() === 1);
  await send(1);
  await page.until("the page shows the first message", says(1));
  proxy.cut();
  await send(2);
  await page.until("the page connects again", () => opened() === 2);
  await send(3);
  await page.until("the page shows the last message", says(3));
  check(seen.console.filter((line) => !line.startsWith("error: ")).join() === "log: ALL 1,log: ALL 2,log: ALL 3", "Each came once, in order, and nothing is missing.");
  check(seen.frames.some(({ received }) => received?.includes('"recovered":true')), "The server says that everything followed.");
  proxy.close();
}

/** The server's own pages: they work, and use nothing but this server. */
async function pages(context) {
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      console.error(`Content-Security-Policy: ${event.violatedDirective} blocked ${event.blockedURI}`);
    });
  });
  const page = await watch(await context.newPage());
  await visitHome(page);
  await visitErrorPage(page);
  await visitDocs(page);
  const strangers = seen.requests.filter((url) => new URL(url).host !== server.host);
  check(strangers.length === 0, `The pages ask nobody else: ${strangers.join(" ")}`);
  const complaints = seen.console.filter((line) => line.startsWith("error: "));
  check(complaints.length === 0 && seen.errors.length === 0, "The pages cause no error in the console.");
  seen.requests = seen.requests.length;
}

async function visitHome(page) {
  await visit(page, "/");
  await page.fill("#token", clientToken);
  await page.fill("#instance", instance);
  await page.click("#connect");
  await page.locator("#state", { hasText: /^connected$/ }).waitFor();
  await page.locator("#frames li", { hasText: '"type":"CONNECTED"' }).waitFor();
  const nonce = randomUUID();
  await page.fill("#publisher", publishToken);
  await page.fill("#channel", "ALL");
  await page.fill("#message", JSON.stringify({ nonce }));
  await page.click("#send");
  await page.locator("#answer", { hasText: /^\d{3} / }).waitFor();
  seen.homeAnswer = await page.textContent("#answer");
  check(seen.homeAnswer.startsWith("202 "), "The page at / shows that the message was accepted.");
  await page.locator("#frames li", { hasText: nonce }).waitFor();
  seen.homeFrames = await page.locator("#frames li").allTextContents();
  await shoot(page, "home");
  await page.click("#disconnect");
  await page.locator("#state", { hasText: /^closed: / }).waitFor();
}

async function visitErrorPage(page) {
  await visit(page, "/errors/TOKEN_INVALID");
  seen.errorPage = await page.textContent("h1");
  check(seen.errorPage === "TOKEN_INVALID", "The page of an error code names the code.");
  await shoot(page, "error");
}

/** Swagger UI: signs in once with token and instance, then publishes with the example as it stands. */
async function visitDocs(page) {
  await visit(page, "/docs");
  await page.locator(".opblock").first().waitFor();
  seen.operations = await page.locator(".opblock").count();
  check(seen.operations > 10, "Swagger UI shows more than 10 operations.");
  await shoot(page, "docs");
  await page.click(".auth-wrapper .btn.authorize");
  await authorize(page, "token", publishToken);
  await authorize(page, "instance", instance);
  await page.locator(".modal-ux .btn-done").first().click();
  await page.locator(".modal-ux").waitFor({ state: "detached" });
  const path = page.locator('.opblock-summary-path[data-path="/v1/messages"]');
  const operation = page.locator(".opblock-post", { has: path });
  await operation.locator(".opblock-summary-control").click();
  await operation.locator(".opblock-body").waitFor();
  if (!(await operation.locator(".execute").isVisible())) await operation.locator(".try-out__btn").click();
  await operation.locator(".execute").click();
  const answer = operation.locator(".live-responses-table tbody tr.response");
  await answer.waitFor();
  seen.tried = (await answer.locator(".response-col_status").innerText()).trim();
  check(/^2\d\d/.test(seen.tried), "An operation that is tried out is answered with 2xx.");
  await shoot(operation.locator(".live-responses-table"), "docs-answer");
}

/** Fills in one scheme of Swagger UI's dialog. */
async function authorize(page, scheme, value) {
  const name = page.locator("code", { hasText: new RegExp(`^${scheme}$`) });
  const form = page.locator(".modal-ux .auth-container", { has: name });
  await form.locator("input").fill(value);
  await form.locator(".authorize").click();
  await form.getByRole("button", { name: "Remove authorization" }).waitFor();
}

async function visit(page, path) {
  const response = await page.goto(new URL(path, server).href);
  check(response.status() === 200, `${path} is answered with 200.`);
  check(response.headers()["content-security-policy"]?.includes("default-src 'none'"), `${path} carries a policy.`);
}

/** Serves the sample from an origin of its own and opens it. Only host, token and instance are put in. */
async function openSample(context, token) {
  let text = await readFile(new URL("pages/sample.html", import.meta.url), "utf8");
  for (const [blank, filled] of [
    ["live.dev.revong.com", server.host],
    ["'Bearer ...'", `'Bearer ${token}'`],
    ["const instance = '';", `const instance = '${instance}';`],
  ]) {
    check(text.split(blank).length === 2, `The sample holds ${blank} once.`);
    text = text.replace(blank, () => filled);
  }
  return openPage(context, text);
}

/** Serves a page from an origin of its own and opens it. */
async function openPage(context, text) {
  const host = http.createServer((request, response) => {
    response.writeHead(request.url === "/" ? 200 : 204, { "content-type": "text/html" });
    response.end(request.url === "/" ? text : undefined);
  });
  await new Promise((resolve) => host.listen(0, "127.0.0.1", resolve));
  const page = await watch(await context.newPage());
  await page.goto(`http://localhost:${host.address().port}/`);
  return page;
}

/** A way to the server that can be cut. */
async function openProxy() {
  const sockets = new Set();
  const proxy = net.createServer((client) => {
    const onward = net.connect(Number(server.port), server.hostname);
    for (const [socket, other] of [[client, onward], [onward, client]]) {
      sockets.add(socket);
      socket.on("error", () => other.destroy());
      socket.on("close", () => sockets.delete(socket) && other.destroy());
      socket.pipe(other);
    }
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  const cut = () => sockets.forEach((socket) => socket.destroy());
  return { port: proxy.address().port, cut, close: () => (cut(), proxy.close()) };
}

/** Notes what a page asks for, says and throws; gives it `until`, which waits for a condition. */
async function watch(page) {
  Object.assign(seen, { console: [], errors: [], frames: [], requests: [] });
  page.on("console", (message) => {
    const where = message.type() === "error" ? ` (${message.location().url})` : "";
    seen.console.push(`${message.type()}: ${message.text()}${where}`);
  });
  page.on("pageerror", (error) => seen.errors.push(error.message));
  page.on("request", (request) => /^(data|blob):/.test(request.url()) || seen.requests.push(request.url()));
  page.on("websocket", (socket) => {
    seen.requests.push(socket.url());
    socket.on("framereceived", ({ payload }) => seen.frames.push({ received: String(payload) }));
    socket.on("framesent", ({ payload }) => seen.frames.push({ sent: String(payload) }));
    socket.on("socketerror", (error) => seen.errors.push(`socket: ${error}`));
  });
  page.until = async (what, holds, patience = PATIENCE_MS) => {
    const end = Date.now() + patience;
    while (!(await holds())) {
      check(Date.now() < end, `Within ${patience / 1_000} s ${what}.`);
      await page.waitForTimeout(50);
    }
  };
  return page;
}

/** Whether the sample shows a frame, sent ("PUSH ->") or received ("PULL ->"). */
async function shown(page, prefix, matches) {
  seen.shown = await page.locator("#messages .message").allTextContents();
  const frames = seen.shown.filter((line) => line.startsWith(prefix));
  return frames.some((line) => matches(JSON.parse(line.slice(prefix.length))));
}

/** `POST /v1/messages` as a component would. */
function publish(body) {
  const headers = { authorization: `Bearer ${publishToken}`, instance, "content-type": "application/json" };
  const options = { method: "POST", headers, rejectUnauthorized: false, timeout: PATIENCE_MS };
  return new Promise((resolve, reject) => {
    const request = https.request(new URL("/v1/messages", server), options, async (response) => {
      try {
        const text = (await response.setEncoding("utf8").toArray()).join("");
        resolve({ status: response.statusCode, body: JSON.parse(text) });
      } catch (error) {
        reject(error);
      }
    });
    request.on("timeout", () => request.destroy(new Error("The publish was not answered.")));
    request.on("error", reject);
    request.end(JSON.stringify(body));
  });
}

async function shoot(target, name) {
  if (!process.env.SHOTS) return;
  await mkdir(process.env.SHOTS, { recursive: true });
  await target.screenshot({ path: path.join(process.env.SHOTS, `${name}.png`) });
}

function check(holds, expected) {
  if (!holds) throw new Error(`Expected: ${expected}`);
}

function end(sentence) {
  console.error(redact(sentence));
  console.error(redact(JSON.stringify(seen)));
  process.exit(1);
}

function redact(text) {
  return [clientToken, publishToken].reduce((text, token) => text.replaceAll(token, "<token>"), text);
}

function bare(token) {
  return token.replace(/^Bearer\s+/i, "");
}

function needed(name) {
  if (process.env[name]) return process.env[name];
  console.error(`${name} is not set.`);
  process.exit(1);
}
