import { join } from 'node:path'
import t, { type Test } from 'tap'
import { EngineProcess } from '../../lib/engine/process.ts'
import { packageRoot } from '../../lib/util/package-root.ts'
import { addonPathFor, compileTimeout, noCompiler, recordingAddonPath } from '../fixtures/recording-library/addon.ts'
import { conformance } from '../lib/engine/conformance.ts'

/**
 * The native engine does what every engine does: with the recording library, and with the stable-diffusion.cpp that
 * SDREST_TEST_SD_CPP_DIR names (as SD_CPP_DIR does for a build), which takes some minutes on a processor.
 */

t.setTimeout(4 * compileTimeout)

async function start (t: Test, addon: string): Promise<EngineProcess> {
  const host = join(packageRoot, 'dist', 'lib', 'engine', 'hosts', 'native', 'native.js')
  const engine = new EngineProcess({ engine: 'native', file: process.execPath, args: [host, addon] })
  t.teardown(() => engine.stop())
  await engine.start()
  return engine
}

t.test('the recording library', { skip: noCompiler }, async (t) => {
  const addon = await recordingAddonPath()
  await conformance(t, t => start(t, addon))
})

const library = process.env.SDREST_TEST_SD_CPP_DIR
if (library !== undefined) {
  t.test(library, { skip: noCompiler }, async (t) => {
    const addon = await addonPathFor(library)
    await conformance(t, t => start(t, addon))
  })
}
