import { createHash, type Hash } from 'node:crypto'
import { open, type FileHandle } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { apiError } from '../../../errors.ts'
import { mebibytes, requireSpace, type FreeSpace } from '../../storage/free-space.ts'
import { looksLikeModel } from '../headers/read-header.ts'
import { DownloadError } from '../../network/download-error.ts'
import { requestFile, type RequestParts } from './request.ts'

export interface DownloadOptions extends RequestParts {
  /** Bytes that a file may have. */
  mostBytes: number
  signal?: AbortSignal
  /** `total` is undefined while it is not known. */
  progress?: (done: { bytes: number, total: number | undefined }) => void
  freeSpace?: FreeSpace
  /** Milliseconds in which at least `leastBytes` have to come, from the first connection on. */
  stallTimeout?: number
  leastBytes?: number
  /** Milliseconds from one try to the next; after the last one without any progress it is given up. */
  delays?: readonly number[]
}

/** What there is of a file already, and how to ask for the rest. */
interface PartialFile {
  file: string
  etag?: string
  sha256?: string
}

interface Downloaded {
  bytes: number
  sha256: string
  /** SHA-256 that the hub promised. */
  promised: string | undefined
}

const second = 1000
const standardDelays = [1 * second, 3 * second, 10 * second, 30 * second]
/** Bytes after which the free space is looked at again: others write to the same disk. */
const spaceInterval = 64 * 1024 * 1024
/** Bytes by which a model is told from a page of a web site. */
const firstLook = 16

/**
 * Fetches a file into `partial.file`, going on where an earlier call or a broken connection ended.
 * @param remember keeps what is needed to go on after a crash; called before the first byte is written.
 * @throws {DownloadError}; API errors SDR_STORAGE_FULL; the signal's reason; errors of the file system.
 */
export async function download (
  url: URL, partial: PartialFile, remember: (partial: PartialFile) => Promise<void>, options: DownloadOptions
): Promise<Downloaded> {
  const file = await open(partial.file, 'a+', 0o600)
  try {
    return await new Download(url, { ...partial }, file, remember, options).run()
  } finally {
    await file.close()
  }
}

class Download {
  readonly #url: URL
  readonly #partial: PartialFile
  readonly #file: FileHandle
  readonly #remember: (partial: PartialFile) => Promise<void>
  readonly #options: DownloadOptions
  /** Of all bytes in the file. */
  #hash: Hash = createHash('sha256')
  #bytes = 0
  #total: number | undefined
  #spaceCheckedAt = 0

  constructor (
    url: URL,
    partial: PartialFile,
    file: FileHandle,
    remember: (partial: PartialFile) => Promise<void>,
    options: DownloadOptions
  ) {
    this.#url = url
    this.#partial = partial
    this.#file = file
    this.#remember = remember
    this.#options = options
  }

  async run (): Promise<Downloaded> {
    await this.#takeUp()
    const { delays = standardDelays, signal } = this.#options
    for (let failures = 0, before = this.#bytes; ; before = this.#bytes) {
      try {
        await this.#receive()
        return { bytes: this.#bytes, sha256: this.#hash.digest('hex'), promised: this.#partial.sha256 }
      } catch (error) {
        if (!(error instanceof DownloadError) || !error.isPassing) throw error
        if (this.#bytes > before) failures = 0
        const wait = delays[failures++]
        if (wait === undefined) throw error
        await delay(wait, undefined, { signal }).catch(() => signal?.throwIfAborted())
      }
    }
  }

  /** Reads what is there for its hash. Without an entity tag it is unknown whether it is still the same file. */
  async #takeUp (): Promise<void> {
    const { size } = await this.#file.stat()
    if (this.#partial.etag === undefined || size < firstLook || size > this.#options.mostBytes) {
      return await this.#startAnew()
    }
    const chunk = Buffer.allocUnsafe(1024 * 1024)
    while (this.#bytes < size) {
      this.#options.signal?.throwIfAborted()
      const { bytesRead } = await this.#file.read(chunk, 0, chunk.length, this.#bytes)
      if (bytesRead === 0) break
      this.#hash.update(chunk.subarray(0, bytesRead))
      this.#bytes += bytesRead
    }
  }

  async #startAnew (): Promise<void> {
    await this.#file.truncate(0)
    this.#hash = createHash('sha256')
    this.#bytes = this.#spaceCheckedAt = 0
  }

  /** One connection, until the file is complete. */
  async #receive (): Promise<void> {
    const { signal } = this.#options
    const broken = new AbortController()
    const patience = new Patience(() => broken.abort(new DownloadError(
      `${this.#url.host} sends too slowly, or nothing at all.`, { isPassing: true })), this.#options)
    try {
      const either = signal === undefined ? broken.signal : AbortSignal.any([signal, broken.signal])
      const response = await this.#begin(either)
      if (response === undefined) return
      await this.#write(response, patience)
    } catch (error) {
      signal?.throwIfAborted()
      throw broken.signal.aborted ? broken.signal.reason : error
    } finally {
      patience.end()
      broken.abort()
    }
    if (this.#total !== undefined && this.#bytes < this.#total) throw this.#broken()
  }

  /** @returns undefined when nothing is left to be sent. */
  async #begin (signal: AbortSignal): Promise<IncomingMessage | undefined> {
    const { etag } = this.#partial
    const range: Record<string, string> = this.#bytes >= firstLook && etag !== undefined
      ? { range: `bytes=${this.#bytes}-`, 'if-range': etag }
      : {}
    const { response, sha256 } = await requestFile(this.#url, range, this.#options, signal)
    try {
      return await this.#accept(response, sha256)
    } catch (error) {
      response.destroy()
      throw error
    }
  }

  async #accept (response: IncomingMessage, sha256: string | undefined): Promise<IncomingMessage | undefined> {
    const { statusCode, headers } = response
    if (!['identity', undefined].includes(headers['content-encoding'])) {
      throw new DownloadError(`${this.#url.host} sends the file in a coding that was not asked for.`)
    }
    const isSame = sha256 === undefined || this.#partial.sha256 === undefined || sha256 === this.#partial.sha256
    const [, first, last, total] = /^bytes (?:(\d+)-(\d+)|\*)\/(\d+)$/.exec(headers['content-range'] ?? '') ?? []
    if (statusCode === 416) {
      response.destroy()
      if (isSame && this.#bytes > 0 && Number(total) === this.#bytes) return undefined
      throw await this.#again()
    }
    if (statusCode === 206) {
      if (!isSame || Number(first) !== this.#bytes || Number(last) + 1 !== Number(total)) throw await this.#again()
      this.#total = Number(total)
    } else {
      await this.#startAnew()
      const length = Number(headers['content-length'] ?? NaN)
      this.#total = Number.isSafeInteger(length) ? length : undefined
      this.#partial.etag = strongTag(headers.etag)
      this.#partial.sha256 = sha256
      await this.#remember(this.#partial)
    }
    this.#checkSize(this.#total ?? 0)
    await this.#checkSpace()
    return response
  }

  async #again (): Promise<DownloadError> {
    this.#partial.etag = undefined
    await this.#startAnew()
    return new DownloadError(`${this.#url.host} has another file than before.`, { isPassing: true })
  }

  async #write (response: IncomingMessage, patience: Patience): Promise<void> {
    const { progress } = this.#options
    let start = Buffer.alloc(0)
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        patience.received(chunk.length)
        patience.pause()
        if (this.#bytes < firstLook) {
          start = Buffer.concat([start, chunk])
          if (start.length >= firstLook) this.#checkStart(start)
        }
        this.#checkSize(this.#bytes + chunk.length)
        await this.#file.appendFile(chunk)
        this.#hash.update(chunk)
        this.#bytes += chunk.length
        if (this.#bytes - this.#spaceCheckedAt > spaceInterval) await this.#checkSpace()
        progress?.({ bytes: this.#bytes, total: this.#total })
        patience.goOn()
      }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      throw code === 'ECONNRESET' || code === 'EPIPE' || code === 'ETIMEDOUT' || code?.startsWith('HPE_') === true
        ? this.#broken(error)
        : error
    }
  }

  #checkStart (start: Buffer): void {
    if (!looksLikeModel(start)) {
      throw apiError('SDR_UNSUPPORTED_MODEL',
        `What ${this.#url.host} sends is neither a safetensors nor a GGUF file; perhaps a page that asks for a login.`)
    }
  }

  #checkSize (bytes: number): void {
    const { mostBytes } = this.#options
    if (bytes > mostBytes) {
      throw new DownloadError(`The file is larger than ${mebibytes(mostBytes)} MiB, ` +
        'the most that this server takes (--max-pull-size).')
    }
    if (this.#total !== undefined && bytes > this.#total) {
      throw new DownloadError(`${this.#url.host} sends more than it announced.`)
    }
  }

  async #checkSpace (): Promise<void> {
    this.#spaceCheckedAt = this.#bytes
    await requireSpace(this.#partial.file, Math.max(0, (this.#total ?? 0) - this.#bytes), this.#options.freeSpace)
  }

  #broken (cause?: unknown): DownloadError {
    const of = this.#total === undefined ? '' : ` of ${this.#total}`
    return new DownloadError(`The connection to ${this.#url.host} broke after ${this.#bytes}${of} bytes.`, {
      cause,
      isPassing: true
    })
  }
}

function strongTag (etag: string | undefined): string | undefined {
  return etag !== undefined && /^"[\x21\x23-\x7e]{1,512}"$/.test(etag) ? etag : undefined
}

/** Calls `onEnd` when too little comes for too long; the time that this side needs to write does not count. */
class Patience {
  readonly #leastBytes: number
  readonly #timer: NodeJS.Timeout
  #bytes = 0
  #isPaused = false
  #wasPaused = false

  constructor (onEnd: () => void, { stallTimeout = 60_000, leastBytes = 16 * 1024 }: DownloadOptions) {
    this.#leastBytes = leastBytes
    this.#timer = setInterval(() => {
      if (!this.#isPaused && !this.#wasPaused && this.#bytes < this.#leastBytes) onEnd()
      this.#wasPaused = this.#isPaused
      this.#bytes = 0
    }, stallTimeout)
  }

  received (bytes: number): void {
    this.#bytes += bytes
  }

  pause (): void {
    this.#isPaused = true
  }

  goOn (): void {
    this.#isPaused = false
  }

  end (): void {
    clearInterval(this.#timer)
  }
}
