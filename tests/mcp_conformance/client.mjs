// Lists tools and calls one with the protocol's own client: `node client.mjs URL KEY TOOL ARGUMENTS`.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [url, key, name, given] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${key}` };
const client = new Client({ name: "test", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
const { tools } = await client.listTools();
const { resourceTemplates } = await client.listResourceTemplates();
const result = await client.callTool({ name, arguments: JSON.parse(given) });
console.log(JSON.stringify({ tools: tools.map((one) => one.name), templates: resourceTemplates.map((one) => one.name), result }));
await client.close();
