"use strict";
// The page at `/`: one socket, one form. The token goes as a subprotocol, so it stands in no URL.

const KEEP_ALIVE_MS = 30_000;
const MOST_FRAMES = 500;
const element = (id) => document.getElementById(id);
const bare = (token) => token.trim().replace(/^Bearer\s+/i, "");
let socket = null;

function show(text) {
  const line = document.createElement("li");
  line.textContent = text;
  const frames = element("frames");
  frames.append(line);
  while (frames.childElementCount > MOST_FRAMES) frames.firstElementChild.remove();
  frames.scrollTop = frames.scrollHeight;
}

function state(text, open) {
  element("state").textContent = text;
  element("state").className = open ? "open" : "closed";
  element("connect").disabled = open;
  element("disconnect").disabled = !open;
}

function connect() {
  const query = new URLSearchParams({ instance: element("instance").value.trim() });
  const channels = element("channels").value.trim();
  if (channels) query.set("channels", channels);
  const token = bare(element("token").value);
  const protocols = token ? ["herald.v1", `bearer.${token}`] : ["herald.v1"];
  try {
    socket = new WebSocket(`wss://${location.host}/v1/connect?${query}`, protocols);
  } catch (error) {
    state("the token has characters that no token has", false);
    return;
  }
  const mine = socket;
  const timer = setInterval(() => mine.readyState === WebSocket.OPEN && mine.send('{"type":"PING"}'), KEEP_ALIVE_MS);
  state("connecting", true);
  mine.onopen = () => state("connected", true);
  mine.onmessage = (event) => show(event.data);
  mine.onclose = (event) => {
    clearInterval(timer);
    state(`closed: ${event.code} ${event.reason}`, false);
  };
}

async function publish() {
  const token = bare(element("publisher").value || element("token").value);
  let message;
  try {
    message = element("message").value;
    JSON.parse(message);
  } catch (error) {
    element("answer").textContent = `The message is not JSON: ${error.message}`;
    return;
  }
  const headers = { "content-type": "application/json", instance: element("instance").value.trim() };
  if (token) headers.authorization = `Bearer ${token}`;
  const channel = JSON.stringify(element("channel").value);
  try {
    const answer = await fetch("/v1/messages", { method: "POST", headers, body: `{"channel":${channel},"message":${message}}` });
    element("answer").textContent = `${answer.status} ${JSON.stringify(await answer.json(), null, 1)}`;
  } catch (error) {
    element("answer").textContent = `No answer: ${error.message}`;
  }
}

element("connect").addEventListener("click", connect);
element("disconnect").addEventListener("click", () => socket && socket.close());
element("send").addEventListener("click", publish);
