// Asks a model.
import { connected, given } from "./clients.mjs";

await connected(async (_, call) => ({ answer: await call("ask_model", given.question) }));
