// Says whom it is connected to, and lists what there is.
import { connected } from "./clients.mjs";

await connected(async (client) => ({
  server: client.getServerVersion().name,
  era: client.getNegotiatedProtocolVersion?.(),
  tools: (await client.listTools()).tools,
  resources: (await client.listResources()).resources,
}));
