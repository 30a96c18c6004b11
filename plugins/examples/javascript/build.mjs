// Makes broker.wasm of broker.js: `node build.mjs [WIT [OUT]]`, where WIT is the folder with the contract's packages.
import { componentize } from '@bytecodealliance/componentize-js';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [wit = '../../../wit', out = 'broker.wasm'] = process.argv.slice(2);
const witPath = await mkdtemp(join(tmpdir(), 'wit-'));
try {
  await cp('world.wit', join(witPath, 'world.wit'));
  for (const name of ['types', 'host', 'credential']) {
    await cp(join(wit, name), join(witPath, 'deps', name), { recursive: true });
  }
  // Requests go through portcullis:host/http; what would need wasi:http is refused when the component is loaded.
  const disableFeatures = ['stdio', 'http', 'fetch-event'];
  const { component } = await componentize(await readFile('broker.js', 'utf8'), { witPath, worldName: 'broker', disableFeatures });
  await writeFile(out, component);
} finally {
  await rm(witPath, { recursive: true });
}
