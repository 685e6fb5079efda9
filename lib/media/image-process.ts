import { spawn, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { apiError } from '../../errors.ts'
import { lowerPriority } from '../util/background-process.ts'
import { engineEnvironment } from '../util/environment.ts'
import { OutputTail } from '../util/output-tail.ts'
import { packageRoot } from '../util/package-root.ts'
import { MessageReader, sendMessage } from './message.ts'
import type { BoundedTask, TaskResult } from './task.ts'

/** Always the compiled one, also when the server itself runs from its TypeScript sources. */
export const script = join(packageRoot, 'dist', 'lib', 'media', 'process.js')
/** Bytes of a result. */
const mostBytes = 512 * 1024 * 1024
/** Of the JavaScript heap, in MiB: images lie outside of it. */
const heap = 64

/** The image is to blame: it is damaged, or takes more than it may. */
export class ImageError extends Error {}

interface Current {
  resolve: (bytes: Buffer) => void
  reject: (error: Error) => void
}

/** One process that decodes images, from its start to its end. It is not used again after a failure. */
export class ImageProcess {
  /** Fulfilled when the process is gone. */
  readonly ended: Promise<void>
  readonly #process: ChildProcess
  readonly #output = new OutputTail()
  #current: Current | undefined
  #timer: NodeJS.Timeout | undefined
  #isOver = false

  /** @param onEnd is called once, when the process can no longer be used. */
  constructor (script: string, onEnd: () => void) {
    this.#process = spawn(process.execPath, [`--max-old-space-size=${heap}`, script], {
      stdio: ['pipe', 'pipe', 'pipe'],
      // The pool has one thread for the image. glibc gives each thread a heap of its own, and keeps what was freed.
      env: { ...engineEnvironment(process.env), UV_THREADPOOL_SIZE: '1', MALLOC_ARENA_MAX: '2' },
      // In a session of its own, so that a Ctrl-C in the terminal lets the server finish its requests.
      detached: process.platform !== 'win32',
      windowsHide: true
    })
    const { stdin, stdout, stderr, pid } = this.#process
    const reader = new MessageReader<TaskResult>(mostBytes)
    // There are no streams when the process could not be started.
    stdin?.on('error', () => {}) // the end of the process says more
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
   * @throws {ImageError} when the image is to blame.
   * @throws {ApiError} SDR_UNAVAILABLE when the process is.
   */
  async run (task: BoundedTask, bytes: Uint8Array, { seconds }: { seconds: number }): Promise<Buffer> {
    const { stdin, pid } = this.#process
    return await new Promise((resolve, reject) => {
      this.#current = { resolve, reject }
      this.#timer = setTimeout(
        () => this.#fail(new ImageError(`it takes longer than ${seconds} s to decode`)), seconds * 1000)
      if (pid !== undefined) sendMessage(stdin!, task, bytes) // else its error event is on the way
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
    // SIGKILL comes from the system, for want of memory, or from an administrator; any other is a decoder that crashed.
    if (signal !== null && signal !== 'SIGKILL') return new ImageError(`its decoder was ended by ${signal}`)
    const how = signal === null ? `with exit code ${code}: ${this.#output.crashReason ?? 'no reason'}` : `by ${signal}`
    return unavailable(`The image process ended ${how}`)
  }
}

export function unavailable (reason: string): Error {
  return apiError('SDR_UNAVAILABLE',
    'Images cannot be decoded at the moment; try again.', { retryAfter: 2, cause: new Error(reason) })
}
