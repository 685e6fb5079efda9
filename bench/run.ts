import { readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, totalmem } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { packageRoot } from '../lib/util/package-root.ts'
import { budgets, isMet, Scope, tableOf, type Figure } from './figure.ts'
import { measures } from './measures.ts'

const usage = `npm run bench -- [--check] [--write] [--scale SHARE] [NAME…]
  NAME     one of ${Object.keys(measures).join(', ')}; all when there is none
  --check  exit code 1 when a budget is missed
  --write  puts the table into docs/performance.md; takes all figures at full scale
  --scale  share of the work to do, 0.001 to 1, to see that it runs`

const [begin, end] = ['<!-- figures -->', '<!-- end of figures -->']

function misuse (message: string): never {
  console.error(`${message}\n\n${usage}`)
  process.exit(2)
}

function readArguments () {
  const { values, positionals } = parseArgs({
    options: {
      check: { type: 'boolean' },
      write: { type: 'boolean' },
      scale: { type: 'string' },
      help: { type: 'boolean' }
    },
    allowPositionals: true
  })
  if (values.help === true) {
    console.log(usage)
    process.exit(0)
  }
  const scale = Number(values.scale ?? 1)
  const unknown = positionals.find(name => !(name in measures))
  if (unknown !== undefined) misuse(`Expected the name of a figure but received ${JSON.stringify(unknown)}`)
  if (!(scale >= 0.001 && scale <= 1)) {
    misuse(`Expected a number from 0.001 to 1 for --scale but received ${JSON.stringify(values.scale)}`)
  }
  const write = values.write === true
  if (write && (scale < 1 || positionals.length > 0)) misuse('--write takes all figures at full scale')
  if (process.platform !== 'linux') misuse('The benchmark reads processor time and memory from /proc: it takes Linux.')
  return {
    names: positionals.length > 0 ? positionals : Object.keys(measures),
    check: values.check === true,
    write,
    scale
  }
}

function writePage (text: string): void {
  const file = join(packageRoot, 'docs', 'performance.md')
  const page = readFileSync(file, 'utf8')
  const [from, to] = [page.indexOf(begin), page.indexOf(end)]
  if (from === -1 || to === -1) throw new Error(`${file} has no place for the figures between ${begin} and ${end}`)
  writeFileSync(file, `${page.slice(0, from)}${begin}\n${text}\n${page.slice(to)}`)
}

const { names, check, write, scale } = readArguments()
const figures: Figure[] = []
const failed: string[] = []
const loads = [loadavg()[0]!]
for (const name of names) {
  const began = performance.now()
  const scope = new Scope()
  try {
    figures.push(...await measures[name]!(scope, scale))
  } catch (error) {
    failed.push(name)
    console.error(`${name}: ${(error as Error).stack}`)
  } finally {
    await scope.close()
  }
  loads.push(loadavg()[0]!)
  console.error(`${name}: ${((performance.now() - began) / 1000).toFixed(1)} s`)
}

const machine = `${new Date().toISOString().slice(0, 10)}, Node.js ${process.version}, Linux, ` +
  `${availableParallelism()} processors ` +
  `(${cpus()[0]?.model.trim() ?? 'unknown'}), ${Math.round(totalmem() / 2 ** 30)} GiB of memory; ` +
  `load average ${loads[0]!.toFixed(1)} before, ${Math.max(...loads).toFixed(1)} at most during the run, ` +
  'which makes some of it itself.'
const table = tableOf(figures)
console.log(`${machine}\n\n${table}`)

if (failed.length > 0) {
  console.error(`Not measured: ${failed.join(', ')}`)
  process.exit(1)
}
if (write) writePage(`${machine}\n\n${table}`)
const missed = figures.filter(({ name, measured }) => !isMet(measured, budgets[name]))
if (missed.length > 0) console.error(`Budgets missed: ${missed.map(({ name }) => name).join(', ')}`)
process.exit(check && missed.length > 0 ? 1 : 0)
