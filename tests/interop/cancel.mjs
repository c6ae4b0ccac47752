// Asks a model, and cancels the call once it was shown progress and is told to.
import { connected, failure, given, newestEnd, told } from "./clients.mjs";

await connected(async (client, call) => {
  const user = new AbortController();
  let onprogress;
  const shown = new Promise((resolve) => (onprogress = resolve));
  Promise.all([shown, told()]).then(() => user.abort("the user has had enough"));
  const cut = await call("ask_model", given.question, { signal: user.signal, onprogress }).catch(failure);
  return { cut, progress: await shown, end: await newestEnd(call) };
});
