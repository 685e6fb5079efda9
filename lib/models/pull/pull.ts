import { lstat, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { apiError } from '../../../errors.ts'
import { badValue } from '../../http/request-errors.ts'
import type { AllowList } from '../../network/allow-list.ts'
import { ModelFileError } from '../headers/header.ts'
import { readModelHeader } from '../headers/read-header.ts'
import type { ModelRoot } from '../roots.ts'
import {
  type StagingArea, type StagingNote, exists, finishedBefore, nameTaken, place, stagingName
} from '../files/staging.ts'
import { chooseTarget, openTarget, requireWritable } from '../files/target.ts'
import type { ModelType } from '../types.ts'
import { type DownloadOptions, download } from './download.ts'
import { NetworkError } from '../../network/network-error.ts'
import { type PullSource, parseSource } from './source.ts'
import type { Tokens } from './tokens.ts'

/** A request; also the parameters of its job. */
export interface PullRequest {
  source: string
  type?: ModelType
  /** Below the folder of the type, separated by `/`. */
  folder?: string
  /** File name; by default the last part of the source. */
  name?: string
  sha256?: string
  overwrite?: boolean
}

export interface PullerOptions {
  roots: readonly ModelRoot[]
  staging: StagingArea
  hosts: AllowList
  tokens: Tokens
  hub: URL
  /** Bytes that a file may have. */
  mostBytes: number
  /** For tests. */
  patience?: Pick<DownloadOptions, 'stallTimeout' | 'leastBytes' | 'delays' | 'freeSpace'>
}

interface Pulled {
  /** Real path of the new file. */
  path: string
  size: number
  sha256: string
}

/** Fetches model files into the models folders. */
export class Puller {
  readonly #options: PullerOptions

  constructor (options: PullerOptions) {
    this.#options = options
  }

  /**
   * Checks a request without the network.
   * @returns the file that it will make.
   * @throws {ApiError} SDR_INVALID_REQUEST, SDR_CONFLICT
   */
  async check (request: PullRequest): Promise<{ source: PullSource, target: string }> {
    const { source, target } = await this.#locate(request)
    await requireWritable(target)
    if (request.overwrite !== true && await exists(target)) throw nameTaken(target)
    return { source, target }
  }

  async #locate (request: PullRequest): Promise<{ source: PullSource, target: string }> {
    const source = parseSource(request.source, this.#options.hub)
    const { sha256 } = request
    if (sha256 !== undefined && !/^[0-9a-f]{64}$/i.test(sha256)) {
      throw badValue('sha256', '64 hexadecimal digits', sha256)
    }
    const name = request.name ?? source.fileName
    if (name === undefined) {
      throw badValue('name',
        'a file name that ends in .safetensors, .sft or .gguf, because the source does not end in one', 'none')
    }
    return { source, target: await chooseTarget({ ...request, name }, this.#options.roots) }
  }

  /**
   * Fetches a file, or the rest of it after an interruption, and makes it a model once it is complete.
   * @throws what `check` throws; {NetworkError}; API errors SDR_STORAGE_FULL, SDR_UNSUPPORTED_MODEL; the signal's
   *   reason.
   */
  async pull (
    request: PullRequest, { signal, progress }: Pick<DownloadOptions, 'signal' | 'progress'> = {}
  ): Promise<Pulled> {
    const { staging } = this.#options
    const overwrite = request.overwrite === true
    // The target may come from an earlier try that was killed after its end.
    const { source, target } = await this.check({ ...request, overwrite: true })
    const key = staging.key(source.url.href, target)
    return await staging.alone(key, async () => {
      const note = await staging.read(key)
      const done = overwrite || note === undefined ? undefined : await finishedBefore(note)
      if (done !== undefined) {
        await rm(note!.staging, { force: true })
        return { path: done.path, size: done.size, sha256: done.sha256! }
      }
      if (!overwrite && await exists(target)) throw nameTaken(target)
      const path = await openTarget(target, this.#options.roots)
      const file = join(dirname(path), stagingName(key))
      if (note !== undefined && note.staging !== file) await rm(note.staging, { force: true })
      const known = note?.staging === file ? note : undefined
      return await this.#fetch(key, { source, path, file, note: known, request }, { signal, progress })
    })
  }

  async #fetch (
    key: string,
    { source, path, file, note, request }: {
      source: PullSource
      path: string
      file: string
      note: StagingNote | undefined
      request: PullRequest
    },
    { signal, progress }: Pick<DownloadOptions, 'signal' | 'progress'>
  ): Promise<Pulled> {
    const { staging } = this.#options
    try {
      let known: StagingNote = note ?? { staging: file }
      // Noted first, so that the file can be deleted if this process dies.
      await staging.write(key, known)
      if (note === undefined) await rm(file, { force: true })
      const { bytes, sha256, promised } = await download(source.url, {
        file,
        etag: known.etag,
        sha256: known.sha256
      }, async ({ etag, sha256 }) => {
        await staging.write(key, known = { staging: file, etag, sha256 })
      }, { ...this.#options, ...this.#options.patience, signal, progress })
      checkHash(sha256, request.sha256?.toLowerCase(), 'asked for')
      checkHash(sha256, promised, 'that the hub promises')
      await checkContent(file)
      const { mtimeMs: modified, ino: inode } = await lstat(file)
      await staging.write(key, { ...known, done: { path, size: bytes, modified, inode, sha256 } })
      await place(file, path, request)
      return { path, size: bytes, sha256 }
    } catch (error) {
      // A download that can continue is kept; a wrong file would be wrong again.
      if (!canContinue(error) && signal?.aborted !== true) await staging.discard(key)
      throw error
    }
  }

  /** Deletes what was fetched so far. */
  async discard (request: PullRequest): Promise<void> {
    const { source, target } = await this.#locate(request)
    const key = this.#options.staging.key(source.url.href, target)
    await this.#options.staging.alone(key, () => this.#options.staging.discard(key))
  }
}

function checkHash (sha256: string, wanted: string | undefined, which: string): void {
  if (wanted === undefined || wanted === sha256) return
  throw new NetworkError(`The SHA-256 of what came is ${sha256}, and not the one ${which}, ${wanted}. It was deleted.`)
}

async function checkContent (file: string): Promise<void> {
  try {
    await readModelHeader(file)
  } catch (error) {
    if (!(error instanceof ModelFileError)) throw error
    throw apiError('SDR_UNSUPPORTED_MODEL',
      `What came is no model that could be used, and was deleted: ${error.message}`, { cause: error })
  }
}

function canContinue (error: unknown): boolean {
  if (error instanceof NetworkError) return error.isPassing
  const { code } = error as NodeJS.ErrnoException
  return code !== 'SDR_UNSUPPORTED_MODEL'
}
