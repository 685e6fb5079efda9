import { readFileSync, readdirSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import t from 'tap'
import { packageRoot } from '../lib/util/package-root.ts'

/**
 * Which rooms a room may import from. `(types)` allows types only. A room is a folder of `lib/`, or a top-level folder
 * with all that is below it. docs/architecture.md shows the same as a drawing.
 */
const arrows: Record<string, string[]> = {
  'errors.ts': [],
  'lib/util': [],
  'lib/storage': ['lib/util'],
  'lib/options': ['lib/util', 'lib/storage'],
  'lib/network': ['lib/util'],
  'lib/engine': ['lib/util', 'lib/options', 'lib/media', 'native'],
  'lib/http': ['lib/util', 'lib/storage', 'lib/options', 'lib/network', 'lib/engine'],
  'lib/media': ['lib/util'],
  'lib/metrics': ['lib/util', 'lib/options', 'lib/engine', 'lib/jobs (types)', 'lib/storage (types)'],
  'lib/accounts': ['lib/util', 'lib/storage', 'lib/options', 'lib/network', 'lib/http', 'native'],
  'lib/jobs': ['lib/util', 'lib/storage', 'lib/options', 'lib/network', 'lib/http', 'lib/engine'],
  'lib/models': ['lib/util', 'lib/storage', 'lib/options (types)', 'lib/network', 'lib/http', 'lib/engine (types)', 'lib/jobs (types)'],
  'lib/generation': ['lib/util', 'lib/options (types)', 'lib/http', 'lib/media', 'lib/engine', 'lib/jobs', 'lib/models'],
  'lib/compat': ['lib/util', 'lib/options (types)', 'lib/http', 'lib/media', 'lib/engine', 'lib/jobs', 'lib/models', 'lib/generation'],
  native: ['lib/util'],
  routes: ['lib'],
  plugins: ['lib'],
  'app.ts': ['lib', 'plugins', 'routes'],
  bin: ['lib', 'app.ts', 'native']
}

const sources = ['lib', 'routes', 'plugins', 'bin', 'native'].flatMap(folder =>
  readdirSync(join(packageRoot, folder), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts') && !name.endsWith('.d.ts')).map(name => join(folder, name)))

interface Import {
  from: string
  to: string
  isType: boolean
}

const imports = [...sources, 'app.ts', 'errors.ts'].flatMap((from): Import[] => {
  const text = readFileSync(join(packageRoot, from), 'utf8')
  return [...text.matchAll(/\b(?:import|export) ([^'";]*) from '(\.[^']+)'|\bimport\('(\.[^']+)'\)/g)].map(([, names = '', path, late]) => ({
    from,
    to: relative(packageRoot, join(packageRoot, dirname(from), path ?? late!)),
    isType: names.startsWith('type ') || (names.startsWith('{') && names.replace(/[{}]/g, '').split(',').every(name => /^\s*(?:type .*)?$/s.test(name)))
  }))
})

const room = (file: string): string => file.startsWith('lib/') ? file.split('/', 2).join('/') : file.split('/', 1)[0]!

t.test('a room imports only from the rooms below it', async t => {
  t.ok(imports.length > 500, `${imports.length} imports`)
  for (const { from, to, isType } of imports) {
    const [here, there] = [room(from), room(to)]
    if (here === there || there === 'errors.ts') continue
    const allowed = arrows[here] ?? []
    const isAllowed = (name: string) => allowed.includes(name) || (isType && allowed.includes(`${name} (types)`))
    if (!isAllowed(there) && !isAllowed(there.split('/', 1)[0]!)) t.fail(`${from} imports ${to}`)
  }
})

t.test('neither files nor rooms go in circles', async t => {
  const edges = (name: (file: string) => string, considered: Import[]) => {
    const result = new Map<string, Set<string>>()
    for (const { from, to } of considered) {
      if (name(from) === name(to)) continue
      if (!result.has(name(from))) result.set(name(from), new Set())
      result.get(name(from))!.add(name(to))
    }
    return result
  }
  t.same(circle(edges(file => file, imports)), [])
  t.same(circle(edges(room, imports)), [])
  t.same(circle(new Map([['a', new Set(['b'])], ['b', new Set(['c'])], ['c', new Set(['b'])]])), ['b', 'c', 'b'], 'one would be found')
})

/** One circle, as the names on it; empty when there is none. */
function circle (edges: Map<string, Set<string>>): string[] {
  const done = new Set<string>()
  const walk = (node: string, path: string[]): string[] => {
    if (path.includes(node)) return [...path.slice(path.indexOf(node)), node]
    if (done.has(node)) return []
    for (const next of edges.get(node) ?? []) {
      const found = walk(next, [...path, node])
      if (found.length > 0) return found
    }
    done.add(node)
    return []
  }
  for (const node of edges.keys()) {
    const found = walk(node, [])
    if (found.length > 0) return found
  }
  return []
}
