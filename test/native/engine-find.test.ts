import { copyFileSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import type { EngineAddon } from '../../native/engine-types.ts'
import { compileTimeout, configure, loadAddon, noCompiler, recordingAddonPath } from '../fixtures/recording-library/addon.ts'

/** How CMake finds a library, and what it says when there is none. Only configures: it compiles only the probe. */

t.setTimeout(compileTimeout)
const addon = noCompiler ? {} as EngineAddon : loadAddon(await recordingAddonPath())

function folder (t: Test): string {
  const path = mkdtempSync(join(tmpdir(), 'sdrest-find-'))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** Lays the recording library out as an install prefix or as an unpacked release. */
function install (to: string, shape: 'prefix' | 'flat'): string {
  const { path } = addon.library
  const header = join(dirname(path), '..', 'include', 'stable-diffusion.h')
  const [headers, libraries] = shape === 'prefix' ? [join(to, 'include'), join(to, 'lib')] : [to, to]
  mkdirSync(headers!, { recursive: true })
  mkdirSync(libraries!, { recursive: true })
  copyFileSync(header, join(headers!, 'stable-diffusion.h'))
  cpSync(path, join(libraries!, path.slice(dirname(path).length + 1)))
  return to
}

t.test('finds an install prefix and an unpacked release, and forgets the one for the other', { skip: noCompiler }, async (t) => {
  const root = folder(t)
  const build = join(root, 'build')
  const prefix = install(join(root, 'prefix with a space'), 'prefix')
  const flat = install(join(root, 'flat'), 'flat')
  const first = await configure(build, [`-DSD_CPP_DIR=${prefix}`])
  t.equal(first.skipped, undefined)
  t.match(first.output, `${join(prefix, 'lib')}/libstable-diffusion`)
  t.match(first.output, 'version recording-1')
  // In the same build folder, whose cache has the answers to the questions before.
  t.match((await configure(build, [`-DSD_CPP_DIR=${flat}`])).output, `engine.node: ${flat}/libstable-diffusion`)
  const gone = await configure(build, ['-DSD_CPP_DIR=/nowhere'])
  t.match(gone.skipped, /^no stable-diffusion\.h and libstable-diffusion\.\w+ in \/nowhere and its .* folders\./)
  t.match(gone.skipped, 'type `SD_CPP_DIR=<its folder> npm run build:native`')
  t.match((await configure(build, ['-DSD_CPP_DIR='], { SD_CPP_DIR: prefix })).output, join(prefix, 'lib'),
    'the environment is asked when the option is empty')
})

t.test('names what is missing or does not fit', { skip: noCompiler }, async (t) => {
  const root = folder(t)
  const headerless = install(join(root, 'headerless'), 'flat')
  rmSync(join(headerless, 'stable-diffusion.h'))
  t.match((await configure(join(root, 'build'), [`-DSD_CPP_DIR=${headerless}`])).skipped,
    `no stable-diffusion.h in ${headerless} and its include`)

  const static_ = install(join(root, 'static'), 'flat')
  rmSync(join(static_, addon.library.path.slice(dirname(addon.library.path).length + 1)))
  writeFileSync(join(static_, 'libstable-diffusion.a'), '')
  t.match((await configure(join(root, 'build'), [`-DSD_CPP_DIR=${static_}`])).skipped, /^no libstable-diffusion\.(so|dylib) in/)

  const other = install(join(root, 'other'), 'flat')
  writeFileSync(join(other, 'stable-diffusion.h'), 'typedef struct { int old; } sd_ctx_params_t;\n')
  const { skipped } = await configure(join(root, 'build'), [`-DSD_CPP_DIR=${other}`])
  t.match(skipped, /do not have the interface that this release of the addon is written for/)
  t.match(skipped, /probe\.log has the compiler's words/)
})

t.test('a library that cannot run here is used, and not compared', { skip: noCompiler }, async (t) => {
  const root = folder(t)
  const broken = install(join(root, 'broken'), 'flat')
  const { output, skipped } = await configure(join(root, 'build'), [`-DSD_CPP_DIR=${broken}`], { GGML_RECORDING_VERSION: 'broken' })
  t.equal(skipped, undefined)
  t.match(output.replace(/\s+/g, ' '), 'cannot run on this machine, so its version is not recorded')
})
