// Uses everything that a server offers, with the official JavaScript client: `node drive.mjs URL legacy|auto`.
//
// The suite's client scenarios watch from the other side of the gateway what it makes of that. What to call is found in the
// lists; MCP_CONFORMANCE_CONTEXT may name calls of its own. Packages are found from the folder in PORTCULLIS_TEST_NODE.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const packages = createRequire(join(process.env.PORTCULLIS_TEST_NODE, 'package.json'));
const { Client, StreamableHTTPClientTransport } = await import(
  pathToFileURL(packages.resolve('@modelcontextprotocol/client')).href
);

const [url, mode] = process.argv.slice(2);
const client = new Client(
  { name: 'portcullis-tests', version: '1' },
  { capabilities: { elicitation: { form: { applyDefaults: true } }, sampling: {}, roots: {} }, versionNegotiation: { mode } },
);
client.setRequestHandler('elicitation/create', () => ({ action: 'accept', content: {} }));
client.setRequestHandler('sampling/createMessage', () => ({
  role: 'assistant',
  model: 'canned',
  content: { type: 'text', text: 'sampled' },
}));
client.setRequestHandler('roots/list', () => ({ roots: [] }));

/** Arguments that fit a schema of scalars. */
function fitting(schema) {
  const required = schema?.required ?? [];
  const value = { string: 'text', number: 5, integer: 5, boolean: true, object: {}, array: [] };
  return Object.fromEntries(required.map((name) => [name, value[schema.properties?.[name]?.type] ?? 'text']));
}

/** A refusal is the server's business, and told to whoever reads the log. */
async function tried(what, work) {
  try {
    await work();
    console.error(`${what}: done`);
  } catch (error) {
    console.error(`${what}: ${error?.message ?? error}`);
  }
}

await client.connect(new StreamableHTTPClientTransport(new URL(url)));
console.error(`connected: ${client.getNegotiatedProtocolVersion()}`);
const { tools } = await client.listTools();
console.error(`tools: ${tools.map((t) => t.name).join(' ')}`);
const wanted = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? '{}').toolCalls;
const schema = tools.find((t) => t.name === 'json_schema_2020_12_tool')?.inputSchema;
const calls = wanted ?? tools.map((t) => ({ name: t.name, arguments: t.name === 'json_schema_echo' ? { schema } : fitting(t.inputSchema) }));
for (const call of calls) await tried(`call ${call.name}`, () => client.callTool(call));
const offers = client.getServerCapabilities() ?? {};
if (offers.resources) {
  const { resources } = await client.listResources();
  for (const { uri } of resources) await tried(`read ${uri}`, () => client.readResource({ uri }));
}
if (offers.prompts) {
  const { prompts } = await client.listPrompts();
  for (const { name } of prompts) await tried(`prompt ${name}`, () => client.getPrompt({ name }));
}
await client.close().catch(() => {});
process.exit(0);
