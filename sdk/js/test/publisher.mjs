// Sends what standard input says, one JSON object a line, and prints a line for each result as it comes.
//
//     node publisher.mjs '{"timeoutMs": 1000}'    the options of createClient; without them the function of the product page
//
// A line is `{"channel", "message", "options"?}`, or `{"abort": true}`, which aborts what is under way. A result is
// `{"receipt", "statuses"}` or `{"error", "statuses"}`; `statuses` are those of all answers so far.

import { createInterface } from "node:readline";
import { inspect } from "node:util";
import { createClient, sendRealtimeMessage } from "../dist/index.js";

const statuses = [];
const { fetch } = globalThis;
globalThis.fetch = async (...request) => {
  const response = await fetch(...request);
  statuses.push(response.status);
  return response;
};

const send = process.argv[2] ? createClient(JSON.parse(process.argv[2])) : sendRealtimeMessage;
const controllers = [];

function print(result) {
  console.log(JSON.stringify({ ...result, statuses }));
}

function told(error) {
  const { name, message, code, status, detail, problem, id } = error;
  const everything = inspect(error, { depth: 9, showHidden: true });
  return { name, message, code, status, detail, problem, id, everything };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { abort, channel, message, options } = JSON.parse(line);
  if (abort) {
    controllers.forEach((controller) => controller.abort());
    continue;
  }
  const controller = new AbortController();
  controllers.push(controller);
  send(channel, message, { ...options, signal: controller.signal }).then(
    (receipt) => print({ receipt }),
    (error) => print({ error: told(error) }),
  );
}
