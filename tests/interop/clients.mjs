// The official TypeScript SDK's clients. A scenario beside this file is run as `node scenario.mjs '{"line": ...}'`, with
// the folder of the packages in OPENROUTER_MCP_TEST_NODE, and prints what it saw as JSON.
import { once } from "node:events";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.OPENROUTER_MCP_TEST_NODE}/`);
const OLD = "@modelcontextprotocol/sdk/client";
const LINES = {
  old: () => ["index", "stdio", "streamableHttp", "sse"].map((name) => require(`${OLD}/${name}.js`)),
  new: () => ["", "/stdio"].map((path) => require(`@modelcontextprotocol/client${path}`)),
};

export const given = JSON.parse(process.argv[2]);

/** Connects as given, runs scenario(client, call), prints what it returns. */
export async function connected(scenario) {
  const { line, mode, transport, server } = given;
  const sdk = Object.assign({}, ...LINES[line]());
  const transports = {
    stdio: () => new sdk.StdioClientTransport(server),
    http: () => new sdk.StreamableHTTPClientTransport(new URL(`${server}/mcp`)),
    sse: () => new sdk.SSEClientTransport(new URL(`${server}/sse`)),
  };
  const client = new sdk.Client({ name: "interop", version: "1" }, { versionNegotiation: { mode } });
  const call = (name, args = {}, options = {}) =>
    client.callTool({ name, arguments: args }, ...(line === "old" ? [undefined, options] : [options]));
  await client.connect(transports[transport]());
  try {
    console.log(JSON.stringify(await scenario(client, call)));
  } finally {
    await client.close();
  }
}

/** What went wrong, as a program sees it. */
export const failure = ({ code, message }) => ({ code, message });

/** Waits for the word of the test, which is the end of stdin. */
export const told = () => once(process.stdin.resume(), "end");

/** How the newest answer ended, waiting for it if need be. */
export async function newestEnd(call) {
  const [{ id }] = (await call("read_answer"))._meta.openrouter.rows;
  return (await call("read_answer", { id, wait_seconds: 20 }))._meta.openrouter.status;
}
