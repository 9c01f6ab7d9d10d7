// An MCP server on the TypeScript SDK that serves the stateless revision, 2026-07-28, and no older one. Its tools say the key that it was
// given, each in another place of the protocol.
//
// Usage: node modern.mjs FOLDER-OF-THE-PACKAGES

import { createRequire } from 'node:module';

const { McpServer, ProtocolError } = createRequire(`${process.argv[2]}/`)('@modelcontextprotocol/server');
const { serveStdio } = createRequire(`${process.argv[2]}/`)('@modelcontextprotocol/server/stdio');

const key = process.env.KEY ?? '';
const text = (text) => ({ content: [{ type: 'text', text }] });

const tools = {
  // Twice, as servers with structured results do, and once as a name.
  environment: () => ({ ...text(JSON.stringify(process.env)), structuredContent: { env: process.env, owners: { [key]: 'us' } } }),
  // A result that is an error.
  fail: () => { throw new Error(`cannot log in with ${key}`); },
  // Where people look.
  log: () => {
    console.error(`request failed: ${JSON.stringify({ auth: `Basic ${Buffer.from(`user:${key}`).toString('base64')}` })}`);
    return text('logged');
  },
  buffer: () => ({ ...text('see buffer'), structuredContent: { buffer: Buffer.from(key) } }),
  meta: () => ({ ...text('see _meta'), _meta: { 'example.com/trace': encodeURIComponent(key) } }),
  weather: () => ({ ...text('{"celsius": -3, "wind": "3\\u202fm/s"}'), structuredContent: { celsius: -3 } }),
};

// An error of the protocol, with data.
const refuse = () => {
  throw new ProtocolError(-32001, `401 for ${key}`, { request: { headers: { authorization: `Bearer ${key}` } } });
};

serveStdio(() => {
  const server = new McpServer({ name: 'modern', version: '1.0.0' }, { capabilities: { tools: {}, resources: {} } });
  for (const [name, run] of Object.entries(tools)) server.registerTool(name, { description: name }, run);
  server.registerResource('account', 'example:account', {}, refuse);
  return server;
}, { legacy: 'reject' });
