// Asks a model, and loses patience: the SDK waits for a minute, which is over when told so.
import { mock } from "node:test";

import { connected, failure, given, newestEnd, told } from "./clients.mjs";

await connected(async (client, call) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  told().then(() => mock.timers.tick(60_000));
  const cut = await call("ask_model", given.question).catch(failure);
  mock.timers.reset();
  return { cut, end: await newestEnd(call) };
});
