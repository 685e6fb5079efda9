import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { packageRoot } from '../../lib/util/package-root.ts'
import { findAddon } from '../../native/index.ts'
import { noTools, openFolder, runNode } from '../fixtures/pam/system.ts'

// Compiling takes seconds here and minutes on a machine that has other things to do.
t.setTimeout(300_000)

/** A copy of what the build needs, with the dependencies of this one and without the engine's sources. */
function makeCopy (t: Test): string {
  const root = openFolder(t)
  for (const part of ['package.json', 'CMakeLists.txt', 'native', 'lib/util/package-root.ts']) {
    cpSync(join(packageRoot, part), join(root, part), { recursive: true })
  }
  rmSync(join(root, 'native', 'engine'), { recursive: true, force: true })
  symlinkSync(join(packageRoot, 'node_modules'), join(root, 'node_modules'))
  return root
}

function run (root: string, file: string, args: string[], environment: Record<string, string> = {}) {
  const { status, stdout, stderr } = spawnSync(process.execPath,
    ['--import', 'tsx', join(root, file), ...args],
    { cwd: root, encoding: 'utf8', timeout: 200_000, env: { ...process.env, SD_CPP_DIR: '', ...environment } })
  return { status, output: stdout + stderr }
}
const build = (root: string, args: string[], environment?: Record<string, string>) =>
  run(root, 'native/build.ts', args, environment)

t.test('without tools', async (t) => {
  const root = makeCopy(t)
  const bin = join(root, 'bin')
  mkdirSync(bin)
  const reason = /cmake is not installed. Type .*(apt install cmake g\+\+.*dnf install cmake|xcode-select).*npm run build:native/

  const asked = build(root, [], { PATH: bin })
  t.equal(asked.status, 1)
  t.match(asked.output, /^auth.node +not built: cmake is not installed/m)
  t.match(asked.output, /^engine.node +not built: cmake is not installed/m)
  const found = await findAddon('auth', { root })
  t.match(found, { ok: false, reason })

  const installed = build(root, ['--quiet'], { PATH: bin })
  t.equal(installed.status, 0, 'an installation goes on')
  t.match(installed.output, reason)
  t.equal(installed.output.trim().split('\n').length, 1, 'one line')

  for (const tool of ['cmake', 'ninja']) writeFileSync(join(bin, tool), '', { mode: 0o755 })
  t.match(build(root, ['auth'], { PATH: bin }), { status: 1, output: /g\+\+ or clang\+\+ is not installed/ })
})

t.test('a word that it does not know', async (t) => {
  t.match(build(makeCopy(t), ['atuh']), { status: 2, output: /received atuh.*Usage: npm run build:native/s })
})

t.test('with tools', { skip: noTools, timeout: 280_000 }, async (t) => {
  const root = makeCopy(t)
  const built = join(root, 'build', 'Release', 'auth.node')
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
  mkdirSync(join(root, 'build'))
  writeFileSync(join(root, 'build', 'CMakeCache.txt'),
    'CMAKE_HOME_DIRECTORY:INTERNAL=/somewhere/else\nCMAKE_GENERATOR:INTERNAL=Unix Makefiles\n')

  t.test('auth.node without PAM, in a tree that was copied from elsewhere', async (t) => {
    const { status, output } = build(root, ['auth', '-DSDREST_PAM=OFF'])
    t.equal(status, 0, output)
    t.match(output, `auth.node    built: ${built}\n  Without PAM: auth.node was built without PAM; install its headers`)
    t.notMatch(output, 'warning')
    t.same(await findAddon('auth', { root }), { ok: true, path: built, version })
    t.match(JSON.parse(runNode(t, `
      const addon = require('${built}')
      addon.pamAuthenticate({ service: 'login', user: 'mona', password: 'x' }).then(({ code, message }) =>
        console.log(JSON.stringify([addon.pamSupport, addon.confDirSupport, addon.pamProblem(), code, message])))`)),
    [false, false, /libpam0g-dev/, 'unavailable', /libpam0g-dev/])
  })

  t.test('an engine that can not be built is a failure for those who asked for it', async (t) => {
    const output = /^auth.node +built: .*^engine.node +not built: its sources/ms
    t.match(build(root, []), { status: 0, output })
    t.match(await findAddon('engine', { root }), { ok: false, reason: /its sources/ })
    t.match(build(root, [], { SD_CPP_DIR: '/opt/sd' }), { status: 1, output })
    t.match(build(root, ['-DSD_CPP_DIR=/opt/sd']), { status: 1, output })
    t.match(build(root, ['engine']), { status: 1, output: /not built: its sources/ })
    t.match(await findAddon('auth', { root }), { ok: true }, 'what was not asked for stays')
  })

  t.test('sources that do not compile', async (t) => {
    writeFileSync(join(root, 'native', 'auth', 'accounts.cc'), 'int broken = ;\n')
    const { status, output } = build(root, ['auth'])
    t.equal(status, 1)
    t.equal(output.match(/^\/.*accounts.cc:1:\d+: error/gm)?.length, 1, 'everything is said once')
    t.match(output, /^auth.node +not built: auth.node does not compile: .*accounts.cc:1:\d+: error/m)
    t.match(readFileSync(join(root, 'build', 'native-build.log'), 'utf8'), /accounts.cc:1:\d+: error/)
    t.notOk(existsSync(built), 'the old one is not taken for the new one')
    t.match(await findAddon('auth', { root }), { ok: false, reason: /accounts.cc.*npm run build:native/ })

    writeFileSync(join(root, 'CMakeLists.txt'), 'message(FATAL_ERROR "no way")\n')
    t.match(build(root, ['auth']), { status: 1, output: /not built: cmake cannot configure the build: CMake Error .*no way/ })
    t.match(build(root, ['--quiet']), { status: 0, output: /^auth.node, which .* needs, was not built: cmake cannot/ })
  })
})

t.test('the install script', async (t) => {
  const root = makeCopy(t)
  t.same(run(root, 'native/install.js', []), { status: 0, output: '' }, 'a clone that is not compiled yet')
  mkdirSync(join(root, 'dist', 'native'), { recursive: true })
  const compiled = join(root, 'dist', 'native', 'build.js')
  writeFileSync(compiled, 'console.log(process.argv.slice(2))')
  t.same(run(root, 'native/install.js', []), { status: 0, output: "[ '--quiet' ]\n" })
  writeFileSync(compiled, 'throw new Error("no room left")')
  t.same(run(root, 'native/install.js', []), { status: 0, output: 'The addons were not built: no room left\n' })
})
