import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { errorTable, exitCodes } from '../errors.ts'
import { Metrics } from '../lib/metrics/metrics.ts'
import { environmentName, optionTable, type OptionName } from '../lib/options/options.ts'
import { architectureOf, architectures } from '../lib/models/detect/architectures.ts'
import { folderNames } from '../lib/models/types.ts'
import { packageRoot } from '../lib/util/package-root.ts'
import { apiPage, type Document } from './api-page.ts'

/** Tables in the docs stand between two markers and are made from the code; UPDATE_DOCS=1 writes them anew. */
function checkTable (t: Test, file: string, name: string, lines: string[]): void {
  const path = join(packageRoot, file)
  const text = readFileSync(path, 'utf8')
  const [begin, end] = [`<!-- ${name} -->`, `<!-- end of ${name} -->`]
  const from = text.indexOf(begin)
  const to = text.indexOf(end)
  t.ok(from !== -1 && to !== -1, `${file} has a table "${name}"`)
  const wanted = `${begin}\n${lines.join('\n')}\n`
  if (process.env.UPDATE_DOCS === '1') writeFileSync(path, text.slice(0, from) + wanted + text.slice(to))
  else t.equal(text.slice(from, to), wanted, `${file} lists ${name} as the code has them`)
}

const cell = (text: string) => text.replaceAll('|', '\\|')

t.test('docs/errors.md lists every error and exit code', async t => {
  checkTable(t, 'docs/errors.md', 'error codes', [
    '| code | status | message |', '| --- | --- | --- |',
    ...Object.entries(errorTable).map(([code, [status, message]]) => `| \`${code}\` | ${status} | ${cell(message)} |`)
  ])
  checkTable(t, 'docs/errors.md', 'exit codes', [
    '| name | code |', '| --- | --- |', ...Object.entries(exitCodes).map(([name, code]) => `| ${name} | ${code} |`)
  ])
})

t.test('docs/models.md lists folder names and architectures', async t => {
  checkTable(t, 'docs/models.md', 'folder names', [
    '| type | folder names |', '| --- | --- |',
    ...Object.entries(folderNames).map(([type, names]) =>
      `| \`${type}\` | ${names.map(name => `\`${name}\``).join(', ')} |`)
  ])
  checkTable(t, 'docs/models.md', 'architectures', [
    '| `architecture` | | default size | steps | cfg_scale | VAE | parts that a bare diffusion model needs |',
    '| --- | --- | --- | --- | --- | --- | --- |',
    ...Object.keys(architectures).map(name => {
      const { title, video, defaults: { width, height, steps, cfg_scale }, variants = {}, components, vae } =
        architectureOf(name)!
      if (video === true) return `| \`${name}\` | ${title} | | | | | recognised and refused: it makes videos |`
      const others = Object.entries(variants).filter(([, changes]) => changes.steps !== undefined)
      const allSteps = [`${steps}`, ...others.map(([variant, changes]) => `${variant} ${changes.steps}`)].join(', ')
      const parts = components.length === 0 ? 'whole checkpoints only' : components.join(', ')
      return `| \`${name}\` | ${title} | ${width}×${height} | ${allSteps} | ${cfg_scale} | ${vae ?? 'none'} | ${parts} |`
    })
  ])
})

t.test('docs/operations.md lists every metric', async t => {
  const metrics = new Metrics({}, () => ({
    queue: async () => ({ queued: 0, running: 0, capacity: 0 }),
    engines: [],
    models: [],
    headers: { cached: 0, read: 0 }
  }))
  const found = [...(await metrics.text()).matchAll(/^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)$/gm)]
  t.ok(found.length > 20)
  checkTable(t, 'docs/operations.md', 'metrics', [
    '| metric | type | what |', '| --- | --- | --- |', ...found.map(([, name, help, type]) => `| \`${name}\` | ${type} | ${cell(help!)} |`)
  ])
})

t.test('docs/configuration.md lists every option', async t => {
  checkTable(t, 'docs/configuration.md', 'options', [
    '| option | environment | default | what |', '| --- | --- | --- | --- |',
    ...(Object.keys(optionTable) as OptionName[]).map(name => {
      const definition = optionTable[name]
      const standard = 'default' in definition ? String(definition.default) : ''
      const choices = 'choices' in definition ? ` (${definition.choices.join(', ')})` : ''
      const range = 'minimum' in definition ? ` (${definition.minimum}…${definition.maximum})` : ''
      return `| \`--${name}\` | \`${environmentName(name)}\` | ${standard === '' ? '' : `\`${standard}\``} | ${cell(definition.describe)}${choices}${range} |`
    })
  ])
})

t.test('SECURITY.md names tests that are there, and every one of test/security', async t => {
  const text = readFileSync(join(packageRoot, 'SECURITY.md'), 'utf8')
  t.match(text, /^# Security\n\n## Threat model\n/)
  const rows = text.split('\n').filter(line => line.startsWith('| ')).slice(2)
  t.ok(rows.length > 10)
  for (const row of rows) t.match(row, /`test\/\S+\.test\.ts` \|$/, row.slice(0, 40))
  for (const [, file] of text.matchAll(/`(test\/[^`]*)`/g)) t.ok(existsSync(join(packageRoot, file!)), `${file} is there`)
  for (const file of readdirSync(join(packageRoot, 'test', 'security')).filter(name => name.endsWith('.test.ts'))) t.match(text, `test/security/${file}`)
})

t.test('docs/api.md lists every operation', async t => {
  checkTable(t, 'docs/api.md', 'operations', apiPage(JSON.parse(readFileSync(join(packageRoot, 'test', 'fixtures', 'openapi.json'), 'utf8')) as Document))
})
