import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t, { type Test } from 'tap'
import ts from 'typescript'
import { packageRoot } from '../../lib/util/package-root.ts'
import { findAddon, findAuthAddon, loadAuthAddon, type FoundAddon } from '../../native/index.ts'
import { noAddon, noCompiler, openFolder } from '../fixtures/pam/system.ts'

const { include_dir: headers } = createRequire(import.meta.url)('node-api-headers') as { include_dir: string }
const found = await findAuthAddon()
const good = found.ok ? found.path : ''
const version = found.ok ? found.version : ''

/** A package with nothing but a version, and where its auth.node is looked for. */
function makePackage (t: Test, release = version) {
  const root = t.testdir({ 'package.json': JSON.stringify({ name: 'stable-diffusion-rest', version: release }) })
  const built = join(root, 'build', 'Release', 'auth.node')
  mkdirSync(dirname(built), { recursive: true })
  return { root, built, beside: join(root, 'auth.node') }
}

/** Compiles C into a shared library. */
function compile (file: string, source: string, ...options: string[]): void {
  execFileSync('cc', ['-shared', '-fPIC', `-I${headers}`, '-o', file, '-xc', '-', ...options], { input: source })
}

const addonSource = (apiVersion = 8, more = '') => `
  #include <node_api.h>
  #include <stdlib.h>
  #include <unistd.h>
  #define EXPORT __attribute__((visibility("default")))
  EXPORT int node_api_module_get_api_version_v1(void) { return ${apiVersion}; }
  EXPORT napi_value napi_register_module_v1(napi_env env, napi_value exports) { ${more} return exports; }`

function reasonOf (found: FoundAddon): string {
  return found.ok ? `found ${found.path}` : found.reason
}

t.test('the addon of this package', { skip: noAddon }, async (t) => {
  t.same(found, { ok: true, path: join(packageRoot, 'build', 'Release', 'auth.node'), version })
  const addon = await loadAuthAddon()
  t.equal(addon.version, version)
  t.equal(await loadAuthAddon(), addon)
  t.type(addon.lookup, 'function')
})

t.test('where it is looked for', { skip: noAddon }, async (t) => {
  const { root, built, beside } = makePackage(t)
  copyFileSync(good, beside)
  t.same(await findAddon('auth', { root }), { ok: true, path: beside, version })
  writeFileSync(built, 'broken')
  t.same(await findAddon('auth', { root }), { ok: true, path: beside, version }, 'a broken one is passed over')
  copyFileSync(good, built)
  t.same(await findAddon('auth', { root }), { ok: true, path: built, version }, 'a new file is tried again')
})

t.test('not there', async (t) => {
  const { root } = makePackage(t, '1.0.0')
  t.equal(reasonOf(await findAddon('auth', { root })),
    `auth.node is not built. Type \`npm run build:native\` in ${root}.`)
  const status = { auth: { built: false, reason: 'cmake is not installed. Type this.' } }
  writeFileSync(join(root, 'build', 'native-status.json'), JSON.stringify(status))
  t.equal(reasonOf(await findAddon('auth', { root })), 'auth.node is not built: cmake is not installed. Type this.')
  t.match(reasonOf(await findAddon('engine', { root })), /^engine.node is not built. Type/)
})

t.test('a file that is no addon', { skip: noAddon }, async (t) => {
  const bytes = readFileSync(good)
  const otherMachine = Buffer.from(bytes)
  otherMachine.writeUInt16LE(process.arch === 'arm64' ? 62 : 183, 18) // e_machine: x86-64 or AArch64
  const elf = process.platform === 'linux' // the messages are those of glibc
  for (const [what, content, message] of [
    ['text', Buffer.from('not a binary\n'.repeat(1000)), elf ? /invalid ELF header/ : /./],
    ['nothing', Buffer.alloc(0), elf ? /file too short/ : /./],
    ['cut after 100 bytes', bytes.subarray(0, 100), /./],
    ['cut in the middle', bytes.subarray(0, bytes.length / 2), /./],
    ['another architecture', otherMachine, /built for \w+ processors, and this one is/]
  ] as Array<[string, Buffer, RegExp]>) {
    const { root, built } = makePackage(t)
    writeFileSync(built, content)
    const reason = reasonOf(await findAddon('auth', { root }))
    t.match(reason, /^auth.node cannot be used. .*auth.node: .*Type `npm run build:native` in .* to build it again.$/s, what)
    t.match(reason, message, reason)
  }
})

t.test('an addon that does not get along with this process', { skip: noCompiler }, async (t) => {
  const library = join(openFolder(t), 'libsdrest-gone.so')
  compile(library, 'int gone(void) { return 0; }')
  for (const [what, source, message, options] of [
    ['aborts', `${addonSource()} __attribute__((constructor)) static void start(void) { abort(); }`, /SIGABRT/],
    ['aborts when asked to register', addonSource(8, 'abort();'), /SIGABRT/],
    ['is no code', `${addonSource()} __attribute__((constructor)) static void start(void) { *(volatile int *)0 = 1; }`, /SIG/],
    ['exits', `${addonSource()} __attribute__((constructor)) static void start(void) { _exit(7); }`, /exit code 7/],
    ['says why', `${addonSource()} __attribute__((constructor)) static void start(void) { write(2, "no driver\\n", 10); abort(); }`,
      /no driver/],
    ['hangs', `${addonSource()} __attribute__((constructor)) static void start(void) { sleep(60); }`, /within 1 seconds/],
    ['is of a later Node-API', addonSource(9999), /9999|SIG/],
    ['is not a Node addon', 'int x;', /did not self-register/],
    ['is of another package', addonSource(), /not an addon of this package/],
    ['needs a library that is gone', `${addonSource()} int gone(void); int y(void) { return gone(); }`, /libsdrest-gone/,
      ['-xnone', library]],
    ['needs a symbol that is gone', `${addonSource()} int gone(void); int y(void) { return gone(); }`, /gone/, ['-Wl,-z,now']]
  ] as Array<[string, string, RegExp, string[]?]>) {
    const { root, built } = makePackage(t, '1.0.0')
    compile(built, source, ...options ?? [])
    if (options?.includes(library)) writeFileSync(library, '')
    const reason = reasonOf(await findAddon('auth', { root, timeout: what === 'hangs' ? 1000 : 20_000 }))
    t.match(reason, message, `${what}: ${reason}`)
    t.match(reason, 'npm run build:native')
  }
})

t.test('an addon of another release', { skip: noAddon }, async (t) => {
  const { root, built } = makePackage(t, '99.0.0')
  copyFileSync(good, built)
  t.match(reasonOf(await findAddon('auth', { root })), `built for release ${version}, and this is 99.0.0`)
})

t.test('a file is tried once', { skip: noAddon }, async (t) => {
  const { root, built } = makePackage(t)
  copyFileSync(good, built)
  await Promise.all(Array.from({ length: 20 }, () => findAddon('auth', { root })))
  const { execPath } = process
  process.execPath = join(root, 'missing') // trying a file takes a process
  t.teardown(() => { process.execPath = execPath })
  for (let n = 0; n < 20; n++) t.match(await findAddon('auth', { root }), { ok: true })
  copyFileSync(good, built)
  t.match(await findAddon('auth', { root }), { ok: false }, 'a new file is tried')
})

t.test('from the compiled package', { skip: noAddon }, async (t) => {
  const { root, built } = makePackage(t)
  copyFileSync(good, built)
  writeFileSync(join(root, 'package.json'), JSON.stringify({ version, type: 'module' }))
  for (const name of ['native/index', 'lib/util/package-root']) {
    const compiled = join(root, 'dist', `${name}.js`)
    mkdirSync(dirname(compiled), { recursive: true })
    writeFileSync(compiled, ts.transpile(readFileSync(join(packageRoot, `${name}.ts`), 'utf8'), {
      target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext, rewriteRelativeImportExtensions: true
    }))
  }
  const loader = await import(pathToFileURL(join(root, 'dist', 'native', 'index.js')).href) as typeof import('../../native/index.ts')
  t.same(await loader.findAuthAddon(), { ok: true, path: built, version })
  t.equal((await loader.loadAuthAddon()).version, version)
  t.match(await loader.findEngineAddon(), { ok: false, reason: root })
  await t.rejects(loader.loadEngineAddon(), { message: /engine.node is not built/ })
})
