import { chmodSync, cpSync, mkdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { CommandError } from '../../../errors.ts'
import { findPortable, selectEngine } from '../../../lib/engine/select.ts'
import { packageRoot } from '../../../lib/util/package-root.ts'
import { version } from '../../../lib/util/version.ts'
import { findEngineAddon } from '../../../native/index.ts'
import { compileTimeout, noCompiler, recordingAddonPath } from '../../fixtures/recording-library/addon.ts'
import { temporaryFolder } from './helper.ts'

t.test('takes the requested engine', async (t) => {
  const portable = await selectEngine({ engine: 'portable' })
  t.match(portable, { engine: 'portable', reason: /--engine/, args: [/dist\/lib\/engine\/hosts\/portable\/portable\.js$/] })
  t.ok(statSync(portable.file).mode & 0o100, 'its runtime can be executed')

  const native = await findEngineAddon()
  const any = await selectEngine({ engine: 'auto' })
  if (native.ok) {
    const expected = { engine: 'native', file: process.execPath, args: [/native\.js$/, native.path] }
    t.match(await selectEngine({ engine: 'native' }), expected)
    t.match(any, { engine: 'native', reason: /is built/ })
  } else {
    const expected = { constructor: CommandError, exitCode: 5, message: native.reason }
    await t.rejects(selectEngine({ engine: 'native' }), expected)
    t.match(any, { engine: 'portable' })
    t.ok(native.isBuilt === true ? any.reason.includes(native.reason) : /is not built/.test(any.reason), 'says why not the other one')
  }
})

/** A package folder without anything in it. */
function emptyPackage (t: Test): string {
  const root = temporaryFolder(t)
  writeFileSync(join(root, 'package.json'), '{"name":"stable-diffusion-rest"}')
  return root
}

function link (root: string, name: string): void {
  const target = join(root, 'node_modules', name)
  mkdirSync(dirname(target), { recursive: true })
  symlinkSync(join(packageRoot, 'node_modules', name), target)
}

t.test('prefers native with an addon; without one, auto falls back with the reason and native fails', { skip: noCompiler }, async (t) => {
  t.setTimeout(compileTimeout)
  const recording = await recordingAddonPath()
  const root = emptyPackage(t)
  writeFileSync(join(root, 'package.json'), JSON.stringify({ name: 'stable-diffusion-rest', version }))
  await t.rejects(selectEngine({ engine: 'auto', root }), { exitCode: 5, message: /There is no engine\. Native: .*Portable: / })
  link(root, 'bare-runtime')
  link(root, '@qvac/diffusion-cpp')
  const hosts = join(root, 'dist', 'lib', 'engine', 'hosts')
  for (const name of ['native', 'portable']) {
    mkdirSync(join(hosts, name), { recursive: true })
    writeFileSync(join(hosts, name, `${name}.js`), '')
  }

  const missing = /engine\.node is not built.*npm run build:native/
  await t.rejects(selectEngine({ engine: 'native', root }), { constructor: CommandError, exitCode: 5, message: missing })
  t.match(await selectEngine({ engine: 'auto', root }), { engine: 'portable', reason: /^portable; the native one is not built/ })

  const built = join(root, 'build', 'Release', 'engine.node')
  mkdirSync(dirname(built), { recursive: true })
  writeFileSync(built, 'broken')
  await t.rejects(selectEngine({ engine: 'native', root }), { exitCode: 5, message: /engine\.node cannot be used/ })
  t.match(await selectEngine({ engine: 'auto', root }), { engine: 'portable', reason: /cannot be used.*engine\.node cannot be used/ })

  cpSync(recording, built)
  for (const engine of ['auto', 'native'] as const) {
    t.match(await selectEngine({ engine, root }), { engine: 'native', args: [join(hosts, 'native', 'native.js'), built] })
  }
  process.env.GGML_RECORDING_VERSION = 'recording-2'
  t.teardown(() => { delete process.env.GGML_RECORDING_VERSION })
  cpSync(recording, join(root, 'engine.node'))
  rmSync(built)
  t.match(await selectEngine({ engine: 'auto', root }),
    { engine: 'portable', reason: /built for stable-diffusion\.cpp recording-1 0000000, but .* is recording-2 0000000/ })
})

t.test('names what is missing and what to type', async (t) => {
  const root = emptyPackage(t)
  const advice = new RegExp(`not installed.*npm install --include=optional.*${root}`)
  t.match(findPortable(root), { ok: false, reason: advice })
  link(root, 'bare-runtime')
  t.match(findPortable(root), { ok: false, reason: /not installed/ }, 'one of the two packages is not enough')
  link(root, '@qvac/diffusion-cpp')
  t.match(findPortable(root), { ok: false, reason: /portable\.js is missing.*npm run build/ })
})

t.test('makes the runtime executable', async (t) => {
  const root = emptyPackage(t)
  link(root, '@qvac/diffusion-cpp')
  const modules = join(root, 'node_modules')
  cpSync(join(packageRoot, 'node_modules', 'bare-runtime'), join(modules, 'bare-runtime'), { recursive: true })
  const binaries = join(modules, `bare-runtime-${process.platform}-${process.arch}`)
  const bare = join(binaries, 'bare')
  mkdirSync(binaries)
  t.match(findPortable(root), { ok: false, reason: /No binaries found for target/ }, 'and one of another platform')
  writeFileSync(join(binaries, 'index.js'), `exports.bare = ${JSON.stringify(bare)}`)
  writeFileSync(bare, '#!/bin/sh\n')
  chmodSync(bare, 0o644)
  const host = join(root, 'dist', 'lib', 'engine', 'hosts', 'portable', 'portable.js')
  mkdirSync(dirname(host), { recursive: true })
  writeFileSync(host, '')
  t.match(findPortable(root), { ok: true, command: { engine: 'portable', file: bare, args: [host] } })
  t.equal(statSync(bare).mode & 0o777, 0o755)
})
