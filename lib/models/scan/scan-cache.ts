import { createHash, randomUUID } from 'node:crypto'
import { lstat, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { type Static, Type, Validator } from '../../http/type.ts'
import { architectures } from '../detect/architectures.ts'
import { networkRules, partRules, subjectRules } from '../detect/architecture-rules.ts'
import type { Summary } from '../detect/inspect.ts'
import { modelTypes } from '../types.ts'

/** What a file's header says, or why it can't be used. */
export type FileContent = Summary | { blocked: string } | { error: string }

/** What is remembered of a file, so that its header is read once. */
export interface CachedFile {
  modified: number
  size: number
  inode: number
  content: FileContent
  sha256?: string
}

/** By real path. */
export type ScanCache = Map<string, CachedFile>

/** Increase it when the meaning of `FileContent` changes; headers are then read again. */
const version = 3

/** A cache from other rules is useless. */
const fingerprint = createHash('sha256')
  .update(JSON.stringify([version, subjectRules, networkRules, partRules, architectures]))
  .digest('base64url')

/** Bytes; enough for a hundred thousand files with long metadata. */
const maximumSize = 256 * 1024 * 1024

const SummarySchema = Type.Object({
  format: Type.Enum(['safetensors', 'gguf']),
  type: Type.Enum([...modelTypes]),
  architecture: Type.Union([Type.String(), Type.Null()]),
  variant: Type.Optional(Type.String()),
  unsupported: Type.Optional(Type.String()),
  lacks_vae: Type.Optional(Type.Literal(true)),
  latent_channels: Type.Optional(Type.Number()),
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
    content: Type.Union([SummarySchema, Type.Object({ blocked: Type.String() }), Type.Object({ error: Type.String() })])
  })]))
})
const validator = new Validator(CacheFile)

/**
 * What scans remember of files, kept in a file when there is one. Other processes, commands and servers, may share that
 * file.
 */
export class SharedScanCache {
  readonly files: ScanCache = new Map()
  readonly #file: string | undefined
  /** When the cache file had been written that was read or written last. */
  #written: number | undefined

  constructor (file: string | undefined) {
    this.#file = file
  }

  /** Adds what the file holds, unless it is the same as at the last time. */
  async read (): Promise<void> {
    if (this.#file === undefined) return
    const written = await writtenAt(this.#file)
    if (written === this.#written) return
    this.#written = written
    for (const [path, other] of await loadFile(this.#file)) {
      const known = this.files.get(path)
      if (known === undefined) this.files.set(path, other)
      else if (isSameFile(known, other)) known.sha256 ??= other.sha256
    }
  }

  /** Adds what other processes have found, and writes the file. @throws errors of the file system. */
  async write (): Promise<void> {
    if (this.#file === undefined) return
    await this.read()
    await saveFile(this.#file, this.files)
    this.#written = await writtenAt(this.#file)
  }

  /** What is remembered of a file, if that is still the same. */
  async current (path: string): Promise<CachedFile | undefined> {
    const known = this.files.get(path)
    if (known === undefined) return undefined
    const { mtimeMs: modified, size, ino: inode } = await lstat(path)
    return isSameFile(known, { modified, size, inode }) ? known : undefined
  }
}

type Measures = Pick<CachedFile, 'modified' | 'size' | 'inode'>

function isSameFile (a: Measures, b: Measures): boolean {
  return a.modified === b.modified && a.size === b.size && a.inode === b.inode
}

/** A file that is missing, damaged or of another release is an empty cache. */
async function loadFile (file: string): Promise<ScanCache> {
  try {
    if ((await stat(file)).size > maximumSize) return new Map()
    const content: unknown = JSON.parse(await readFile(file, 'utf8'))
    return validator.check(content) ? new Map((content as Static<typeof CacheFile>).files) as ScanCache : new Map()
  } catch (error) {
    // Without the cache the start is only slower; an error on writing is reported.
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code !== undefined) return new Map()
    throw error
  }
}

/** Milliseconds since 1970; undefined when there is no such file. */
async function writtenAt (file: string): Promise<number | undefined> {
  try {
    return (await stat(file)).mtimeMs
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/** Replaces the file in one step: a crash leaves the old or the new one. */
async function saveFile (file: string, cache: ScanCache): Promise<void> {
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
