// Receives with Node's ws: prints every frame as a line; after a MESSAGE it pings, and closes at the PONG.
// Usage: receive.mjs URL CA TOKEN INSTANCE. The token goes into the subprotocols, as browsers send it.

import { readFileSync } from "node:fs";
import WebSocket from "ws";

const [url, ca, token, instance] = process.argv.slice(2);
setTimeout(() => process.exit(1), 30_000).unref();
const address = `${url}?instance=${encodeURIComponent(instance)}`;
const socket = new WebSocket(address, ["herald.v1", `bearer.${token}`], { ca: readFileSync(ca) });
socket.on("open", () => {
  if (socket.protocol !== "herald.v1") throw new Error(`the subprotocol is ${socket.protocol}`);
});
socket.on("message", (data) => {
  console.log(data.toString());
  const { type } = JSON.parse(data);
  if (type === "MESSAGE") {
    socket.ping();
    socket.once("pong", () => socket.send(JSON.stringify({ type: "PING" })));
  }
  if (type === "PONG") socket.close(1000);
});
socket.on("close", (code) => process.exit(code === 1000 ? 0 : 1));
