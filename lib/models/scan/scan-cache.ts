import { createHash, randomUUID } from 'node:crypto'
import { mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { type Static, Type, Validator } from '../../http/type.ts'
import { architectures } from '../detect/architectures.ts'
import { adapterName, adapterRules, adapterTextModule, baseModelNames, rules, subjectRules } from '../detect/rules.ts'
import type { ScanCache } from './scan.ts'
import { modelTypes } from '../types.ts'

/** Increase it when what is kept of a file changes its meaning; older files are then read again. */
const version = 2

/** Rules decide what is kept of a file, so a cache that was written under other rules is worth nothing. */
const fingerprint = createHash('sha256')
  .update(JSON.stringify([
    version, subjectRules, rules, architectures, adapterRules, adapterTextModule, adapterName, baseModelNames
  ], (_key, value: unknown) => value instanceof RegExp ? value.source : value))
  .digest('base64url')

/** Bytes; a hundred thousand files with long metadata stay below. */
const maximumSize = 256 * 1024 * 1024

const Summary = Type.Object({
  format: Type.Enum(['safetensors', 'gguf']),
  type: Type.Enum([...modelTypes]),
  architecture: Type.Union([Type.String(), Type.Null()]),
  variant: Type.Optional(Type.String()),
  parameters: Type.Number(),
  quantization: Type.Union([Type.String(), Type.Null()]),
  prediction: Type.Optional(Type.String()),
  resolution: Type.Optional(Type.Number()),
  trigger_words: Type.Optional(Type.Array(Type.String())),
  metadata: Type.Optional(Type.Record(Type.String(), Type.String()))
})
const CacheFile = Type.Object({
  fingerprint: Type.Literal(fingerprint),
  files: Type.Array(Type.Tuple([Type.String(), Type.Object({
    modified: Type.Number(),
    size: Type.Number(),
    inode: Type.Number(),
    sha256: Type.Optional(Type.String({ pattern: '^[0-9a-f]{64}$' })),
    content: Type.Union([Summary, Type.Object({ blocked: Type.String() }), Type.Object({ error: Type.String() })])
  })]))
})
const validator = new Validator(CacheFile)

/** Reads what an earlier scan remembered. A file that is missing, damaged or of another release is an empty cache. */
export async function loadScanCache (file: string): Promise<ScanCache> {
  try {
    if ((await stat(file)).size > maximumSize) return new Map()
    const content: unknown = JSON.parse(await readFile(file, 'utf8'))
    return validator.check(content) ? new Map((content as Static<typeof CacheFile>).files) as ScanCache : new Map()
  } catch (error) {
    // A cache that can't be read costs a slower start and nothing else; whether it can be written is seen on saving.
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code !== undefined) return new Map()
    throw error
  }
}

/** Milliseconds since 1970; undefined when there is no such file. */
export async function writtenAt (file: string): Promise<number | undefined> {
  try {
    return (await stat(file)).mtimeMs
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/** Replaces the file in one step, so that a crash leaves the old one or the new one. */
export async function saveScanCache (file: string, cache: ScanCache): Promise<void> {
  const temporary = `${file}.${randomUUID()}.tmp`
  await mkdir(dirname(file), { recursive: true, mode: 0o700 })
  try {
    const handle = await open(temporary, 'wx', 0o600)
    try {
      await handle.writeFile(JSON.stringify({ fingerprint, files: [...cache] }))
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, file)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}
