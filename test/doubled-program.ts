import { chmodSync, cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { packageRoot } from '../lib/util/package-root.ts'

/** A copy of the program whose portable engine is the double: Node.js runs it in place of the engine's runtime. */
export function doubledProgram (t: Test): string {
  const root = mkdtempSync(join(tmpdir(), 'doubled-'))
  t.teardown(() => rmSync(root, { recursive: true, force: true }))
  chmodSync(root, 0o755)
  for (const part of ['dist', 'package.json']) cpSync(join(packageRoot, part), join(root, part), { recursive: true })
  const modules = join(root, 'node_modules')
  mkdirSync(modules)
  for (const name of readdirSync(join(packageRoot, 'node_modules'))) {
    if (name !== 'bare-runtime') symlinkSync(join(packageRoot, 'node_modules', name), join(modules, name))
  }
  const runtime = join(modules, 'bare-runtime')
  mkdirSync(runtime)
  writeFileSync(join(runtime, 'package.json'), '{"name":"bare-runtime","main":"index.js"}')
  writeFileSync(join(runtime, 'index.js'), 'module.exports = () => process.execPath')
  writeFileSync(join(root, 'dist', 'lib', 'engine', 'hosts', 'portable', 'portable.js'), `
    process.argv[2] = 'drawing'
    await import('../../../../test/fixtures/engine-double.js')`)
  return join(root, 'dist', 'bin', 'stable-diffusion-rest.js')
}
