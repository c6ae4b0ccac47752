// Says whom it is connected to and lists what there is, asks a model, and makes mistakes: calls a tool that there is not,
// misspells an argument, asks a model that costs.
import { connected, failure, given } from "./clients.mjs";

await connected(async (client, call) => ({
  server: client.getServerVersion().name,
  era: client.getNegotiatedProtocolVersion?.(),
  tools: (await client.listTools()).tools,
  resources: (await client.listResources()).resources,
  answer: await call("ask_model", given.question),
  tool: await call("ask_modèle", given.question).catch(failure),
  argument: await call("ask_model", { ...given.question, max_token: 5 }),
  price: await call("ask_model", { ...given.question, model: "acme/tiny" }),
}));
