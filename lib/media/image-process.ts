import { spawn, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { apiError } from '../../errors.ts'
import { lowerPriority } from '../util/background-process.ts'
import { engineEnvironment } from '../util/environment.ts'
import { OutputTail } from '../util/output-tail.ts'
import { packageRoot } from '../util/package-root.ts'
import { MessageReader, sendMessage } from './message.ts'
import type { BoundedTask, TaskResult } from './task.ts'

/** The compiled one, even when the server runs from its TypeScript sources. */
export const script = join(packageRoot, 'dist', 'lib', 'media', 'process.js')
/** Bytes of a result. */
const mostBytes = 512 * 1024 * 1024
/** MiB of the JavaScript heap; images lie outside it. */
const heap = 64

/** The image is damaged, or takes too much time or memory. */
export class ImageError extends Error {}

interface Current {
  resolve: (bytes: Buffer) => void
  reject: (error: Error) => void
}

/** One process that decodes images, from its start to its end. Not used again after a failure. */
export class ImageProcess {
  /** Fulfilled when the process has ended. */
  readonly ended: Promise<void>
  readonly #process: ChildProcess
  readonly #output = new OutputTail()
  #current: Current | undefined
  #timer: NodeJS.Timeout | undefined
  #isOver = false

  /** @param onEnd is called once, when the process has ended. */
  constructor (script: string, onEnd: () => void) {
    this.#process = spawn(process.execPath, [`--max-old-space-size=${heap}`, script], {
      stdio: ['pipe', 'pipe', 'pipe'],
      // One pool thread for the image. glibc gives each thread its own heap and keeps freed memory in it.
      env: { ...engineEnvironment(process.env), UV_THREADPOOL_SIZE: '1', MALLOC_ARENA_MAX: '2' },
      // Its own session, so that Ctrl-C in the terminal lets the server finish its requests.
      detached: process.platform !== 'win32',
      windowsHide: true
    })
    const { stdin, stdout, stderr, pid } = this.#process
    const reader = new MessageReader<TaskResult>(mostBytes)
    // No streams exist when the process could not be started.
    stdin?.on('error', () => {}) // the exit of the process says more
    stdout?.on('data', (chunk: Buffer) => {
      try {
        const message = reader.push(chunk)
        if (message !== undefined) this.#answered(message.head, message.bytes)
      } catch (error) {
        this.#fail(unavailable(`The image process does not keep to the protocol: ${(error as Error).message}`))
      }
    })
    stderr?.on('data', (chunk: Buffer) => this.#output.add(chunk))
    this.ended = new Promise(resolve => {
      const gone = (error: Error) => {
        this.#fail(error)
        onEnd()
        resolve()
      }
      if (pid === undefined) {
        this.#process.once('error', error => gone(unavailable(`The image process cannot be started: ${error.message}`)))
      }
      this.#process.once('close', (code, signal) => gone(this.#whyItEnded(code, signal)))
    })
    if (pid !== undefined) lowerPriority(pid, { niceness: 5, outOfMemoryScore: 800 })
  }

  get pid (): number | undefined {
    return this.#process.pid
  }

  get isUsable (): boolean {
    return !this.#isOver
  }

  /**
   * One task at a time.
   * @throws {ImageError}; {ApiError} SDR_UNAVAILABLE when the process failed.
   */
  async run (task: BoundedTask, bytes: Uint8Array, { seconds }: { seconds: number }): Promise<Buffer> {
    const { stdin, pid } = this.#process
    return await new Promise((resolve, reject) => {
      this.#current = { resolve, reject }
      this.#timer = setTimeout(
        () => this.#fail(new ImageError(`it takes longer than ${seconds} s to decode`)), seconds * 1000)
      if (pid !== undefined) sendMessage(stdin!, task, bytes) // else its error event follows
    })
  }

  /** Ends the process at once. */
  end (): void {
    this.#fail(apiError('SDR_DRAINING'))
  }

  #answered ({ error, isLast = false }: TaskResult, bytes: Buffer): void {
    const { resolve, reject } = this.#settle() ?? {}
    if (resolve === undefined || reject === undefined) throw new RangeError('it speaks unasked')
    if (isLast) this.#isOver = true
    if (error === undefined) resolve(bytes)
    else reject(new ImageError(String(error).slice(0, 200)))
  }

  #fail (error: Error): void {
    this.#isOver = true
    this.#process.kill('SIGKILL')
    this.#settle()?.reject(error)
  }

  #settle (): Current | undefined {
    const current = this.#current
    clearTimeout(this.#timer)
    this.#current = undefined
    return current
  }

  #whyItEnded (code: number | null, signal: NodeJS.Signals | null): Error {
    // SIGKILL comes from the system, short of memory, or from an administrator; other signals mean a crashed decoder.
    if (signal !== null && signal !== 'SIGKILL') return new ImageError(`its decoder was ended by ${signal}`)
    const how = signal === null ? `with exit code ${code}: ${this.#output.crashReason ?? 'no reason'}` : `by ${signal}`
    return unavailable(`The image process ended ${how}`)
  }
}

export function unavailable (reason: string): Error {
  return apiError('SDR_UNAVAILABLE',
    'Images cannot be decoded at the moment; try again.', { retryAfter: 2, cause: new Error(reason) })
}
