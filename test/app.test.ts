import t from 'tap'
import { buildApp } from '../app.ts'
import { build, testOptions, workspace } from './helper.ts'
import { until } from './lib/engine/helper.ts'

/** Processes that this one has started and that have not ended. */
function children (): number {
  return process.getActiveResourcesInfo().filter(name => name === 'ProcessWrap').length
}

t.test('an application that cannot be built leaves no engine behind, and no lock', async (t) => {
  const { models, data } = workspace(t)
  const options = { 'models-dir': [models], 'data-dir': data }
  const before = children()
  await t.rejects(buildApp(testOptions({ ...options, 'webhook-hosts': ['example.org'] })), { message: /--webhook-secret/ })
  t.ok(await until(() => children() === before), 'the engine of one whose queue cannot be opened')

  const app = await build(t, options, { models: false })
  t.equal(children(), before + 1)
  const second = testOptions({ ...options, 'data-dir': app.folders.data })
  await t.rejects(buildApp(second), { message: /Another server works on this queue/ })
  t.ok(await until(() => children() === before + 1), 'the engine of a second one, and not that of the first')
  const { statusCode } = await app.inject('/api/queue/status')
  t.equal(statusCode, 200, 'which goes on')
})

t.test('nothing but an option limits how long it takes to start and to drain', async (t) => {
  const { initialConfig } = await build(t, {}, { models: false })
  t.equal(initialConfig.pluginTimeout, 0)
})
