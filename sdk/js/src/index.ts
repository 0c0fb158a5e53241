/** Sends realtime messages through Herald, each once. */

import { type SendRealtimeMessage, createClient } from "./client.js";

export { type Receipt, type SendOptions, type SendRealtimeMessage, createClient } from "./client.js";
export { HeraldError, type Problem } from "./error.js";
export { type ClientOptions, type TokenSource } from "./settings.js";

/** Sends with what `HERALD_URL`, `HERALD_TOKEN` and `HERALD_INSTANCE` say at the time of the call. */
export const sendRealtimeMessage: SendRealtimeMessage = createClient();
