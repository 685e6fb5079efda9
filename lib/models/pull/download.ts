import { createHash, type Hash } from 'node:crypto'
import { open, type FileHandle } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { apiError } from '../../../errors.ts'
import { mebibytes, requireSpace, type FreeSpace } from '../../storage/free-space.ts'
import { looksLikeModel } from '../headers/read-header.ts'
import { NetworkError } from '../../network/network-error.ts'
import { requestFile, type RequestParts } from './request.ts'

export interface DownloadOptions extends RequestParts {
  /** Bytes that a file may have. */
  mostBytes: number
  signal?: AbortSignal
  /** `total` is undefined until it is known. */
  progress?: (done: { bytes: number, total: number | undefined }) => void
  freeSpace?: FreeSpace
  /** Milliseconds in which at least `leastBytes` must arrive. */
  stallTimeout?: number
  leastBytes?: number
  /** Milliseconds before each retry without progress in between; after the last one the download fails. */
  delays?: readonly number[]
}

/** A part of a file, and what a request for the rest needs. */
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
/** Bytes between two checks of the free space: others write to the same disk. */
const spaceInterval = 64 * 1024 * 1024
/** Bytes that tell a model from a web page. */
const firstLook = 16

/**
 * Fetches a file into `partial.file`, and continues what an earlier call or a broken connection left.
 * @param remember keeps what is needed to continue after a crash; called before the first byte is written.
 * @throws {NetworkError}; API errors SDR_STORAGE_FULL; the signal's reason; errors of the file system.
 */
export async function download (
  url: URL, partial: PartialFile, remember: (partial: PartialFile) => Promise<void>, options: DownloadOptions
): Promise<Downloaded> {
  const file = await open(partial.file, 'a+', 0o600)
  try {
    return await new Download({ url, file, partial: { ...partial }, remember }, options).run()
  } finally {
    await file.close()
  }
}

interface DownloadParts {
  url: URL
  file: FileHandle
  partial: PartialFile
  remember: (partial: PartialFile) => Promise<void>
}

class Download {
  readonly #parts: DownloadParts
  readonly #options: DownloadOptions
  /** Of all bytes in the file. */
  #hash: Hash = createHash('sha256')
  #bytes = 0
  #total: number | undefined
  #spaceCheckedAt = 0

  constructor (parts: DownloadParts, options: DownloadOptions) {
    this.#parts = parts
    this.#options = options
  }

  async run (): Promise<Downloaded> {
    await this.#hashReceived()
    const { delays = standardDelays, signal } = this.#options
    for (let failures = 0, before = this.#bytes; ; before = this.#bytes) {
      try {
        await this.#receive()
        return { bytes: this.#bytes, sha256: this.#hash.digest('hex'), promised: this.#parts.partial.sha256 }
      } catch (error) {
        if (!(error instanceof NetworkError) || !error.isPassing) throw error
        if (this.#bytes > before) failures = 0
        const wait = delays[failures++]
        if (wait === undefined) throw error
        await delay(wait, undefined, { signal }).catch(() => signal?.throwIfAborted())
      }
    }
  }

  /** Starts again without an entity tag, because the file of the host may have changed. */
  async #hashReceived (): Promise<void> {
    const { size } = await this.#parts.file.stat()
    if (this.#parts.partial.etag === undefined || size < firstLook || size > this.#options.mostBytes) {
      return await this.#startAnew()
    }
    const chunk = Buffer.allocUnsafe(1024 * 1024)
    while (this.#bytes < size) {
      this.#options.signal?.throwIfAborted()
      const { bytesRead } = await this.#parts.file.read(chunk, 0, chunk.length, this.#bytes)
      if (bytesRead === 0) break
      this.#hash.update(chunk.subarray(0, bytesRead))
      this.#bytes += bytesRead
    }
  }

  async #startAnew (): Promise<void> {
    await this.#parts.file.truncate(0)
    this.#hash = createHash('sha256')
    this.#bytes = this.#spaceCheckedAt = 0
  }

  /** One connection, until the file is complete. */
  async #receive (): Promise<void> {
    const { signal } = this.#options
    const broken = new AbortController()
    const patience = new Patience(() => broken.abort(new NetworkError(
      `${this.#parts.url.host} sends too slowly, or nothing at all.`, { isPassing: true })), this.#options)
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

  /** @returns undefined when the file is complete already. */
  async #begin (signal: AbortSignal): Promise<IncomingMessage | undefined> {
    const { etag } = this.#parts.partial
    const range: Record<string, string> = this.#bytes >= firstLook && etag !== undefined
      ? { range: `bytes=${this.#bytes}-`, 'if-range': etag }
      : {}
    const { response, sha256 } = await requestFile(this.#parts.url, range, this.#options, signal)
    try {
      return await this.#accept(response, sha256)
    } catch (error) {
      response.destroy()
      throw error
    }
  }

  async #accept (response: IncomingMessage, sha256: string | undefined): Promise<IncomingMessage | undefined> {
    const { statusCode, headers } = response
    const { partial } = this.#parts
    if (!['identity', undefined].includes(headers['content-encoding'])) {
      throw new NetworkError(`${this.#parts.url.host} sends the file in a coding that was not asked for.`)
    }
    const isSame = sha256 === undefined || partial.sha256 === undefined || sha256 === partial.sha256
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
      partial.etag = strongTag(headers.etag)
      partial.sha256 = sha256
      await this.#parts.remember(partial)
    }
    this.#checkSize(this.#total ?? 0)
    await this.#checkSpace()
    return response
  }

  async #again (): Promise<NetworkError> {
    this.#parts.partial.etag = undefined
    await this.#startAnew()
    return new NetworkError(`${this.#parts.url.host} has another file than before.`, { isPassing: true })
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
        await this.#parts.file.appendFile(chunk)
        this.#hash.update(chunk)
        this.#bytes += chunk.length
        if (this.#bytes - this.#spaceCheckedAt > spaceInterval) await this.#checkSpace()
        progress?.({ bytes: this.#bytes, total: this.#total })
        patience.resume()
      }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      throw code === 'ECONNRESET' || code === 'EPIPE' || code === 'ETIMEDOUT' || code?.startsWith('HPE_') === true
        ? this.#broken(error)
        : error
    }
  }

  #checkStart (start: Buffer): void {
    if (looksLikeModel(start)) return
    const { host } = this.#parts.url
    throw apiError('SDR_UNSUPPORTED_MODEL',
      `What ${host} sends is neither a safetensors nor a GGUF file; perhaps a page that asks for a login.`)
  }

  #checkSize (bytes: number): void {
    const { mostBytes } = this.#options
    if (bytes > mostBytes) {
      throw new NetworkError(`The file is larger than ${mebibytes(mostBytes)} MiB, ` +
        'the most that this server takes (--max-pull-size).')
    }
    if (this.#total !== undefined && bytes > this.#total) {
      throw new NetworkError(`${this.#parts.url.host} sends more than it announced.`)
    }
  }

  async #checkSpace (): Promise<void> {
    this.#spaceCheckedAt = this.#bytes
    await requireSpace(this.#parts.partial.file, Math.max(0, (this.#total ?? 0) - this.#bytes), this.#options.freeSpace)
  }

  #broken (cause?: unknown): NetworkError {
    const of = this.#total === undefined ? '' : ` of ${this.#total}`
    return new NetworkError(`The connection to ${this.#parts.url.host} broke after ${this.#bytes}${of} bytes.`, {
      cause,
      isPassing: true
    })
  }
}

function strongTag (etag: string | undefined): string | undefined {
  return etag !== undefined && /^"[\x21\x23-\x7e]{1,512}"$/.test(etag) ? etag : undefined
}

/** Calls `onEnd` when too little arrives for too long. The time of writes on this side does not count. */
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

  resume (): void {
    this.#isPaused = false
  }

  end (): void {
    clearInterval(this.#timer)
  }
}
