import { spawn, type ChildProcess } from 'node:child_process'
import type { Duplex, Readable } from 'node:stream'
import { lowerPriority } from '../util/background-process.ts'
import type { EngineName } from './engine.ts'
import { engineEnvironment } from '../util/environment.ts'
import { readHostMessage } from './host-message.ts'
import { OutputTail } from '../util/output-tail.ts'
import {
  FrameDecoder, ProtocolError, encodeServerMessage, type Frame, type HostMessage, type ServerMessage
} from './protocol.ts'
import { Throttle } from './throttle.ts'

/** How to start an engine process. */
export interface EngineCommand {
  engine: EngineName
  file: string
  args: string[]
  /** The user that it becomes, if not that of this process (engine-user.ts). */
  user?: string
}

interface ChildListener {
  message: (message: HostMessage) => void
  /** Any message or output: the process does not hang. */
  activity: () => void
  /** The process has ended; `reason` is a sentence for users. Called once, as the last. */
  ended: (reason: string) => void
}

/** When memory is short, Linux kills an engine before the server. */
export const enginePriority = { niceness: 10, outOfMemoryScore: 500 }
/** Milliseconds from SIGTERM to SIGKILL. */
const killDelay = 2000
/** Milliseconds to wait for output after the end, because another process may hold the pipes open. */
const drainDelay = 500
/** Bytes of output, and messages, read per second: an engine must not keep this process busy. */
const outputPerSecond = 32 * 1024 * 1024
const messagesPerSecond = 10_000

/** One engine process from its start to its end. Not used again after a failure. */
export class EngineChild {
  /** Fulfilled when the process has ended. */
  readonly ended: Promise<void>
  readonly #process: ChildProcess
  readonly #channel: Duplex
  readonly #listener: ChildListener
  readonly #output = new OutputTail()
  readonly #timers = new Set<NodeJS.Timeout>()
  readonly #throttles: Throttle[] = []
  /** Why this side killed it, if it did. */
  #killReason: string | undefined
  #isGone = false
  /** Whether its last message broke off. */
  #isCutShort = false
  #resolveEnded!: () => void

  constructor ({ file, args, user }: EngineCommand, listener: ChildListener) {
    this.#listener = listener
    this.ended = new Promise((resolve) => { this.#resolveEnded = resolve })
    this.#process = spawn(file, args, {
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
      env: engineEnvironment(process.env, user),
      // Its own session, so that Ctrl-C in the terminal lets the server finish the running job.
      detached: process.platform !== 'win32',
      windowsHide: true
    })
    const { stdout, stderr, stdio, pid } = this.#process
    this.#channel = stdio[3] as Duplex
    this.#watchEnd()
    this.#read(stdout!, () => {})
    this.#read(stderr!, (chunk) => this.#output.add(chunk))
    this.#readChannel()
    // A process with another user has done that itself (engine-user.ts).
    if (pid !== undefined && user === undefined) lowerPriority(pid, enginePriority)
  }

  get pid (): number | null {
    return this.#process.pid ?? null
  }

  /** The last lines of its standard error, oldest first. */
  get lastLines (): string[] {
    return this.#output.lines
  }

  send (message: ServerMessage): void {
    for (const piece of encodeServerMessage(message)) this.#channel.write(piece)
  }

  /** Ends the process with SIGTERM, then with SIGKILL. */
  terminate (reason: string): void {
    this.#end(reason, 'SIGTERM')
    this.#after(killDelay, () => this.#process.kill('SIGKILL'))
  }

  /** Ends the process at once. */
  kill (reason: string): void {
    this.#end(reason, 'SIGKILL')
  }

  #end (reason: string, signal: NodeJS.Signals): void {
    this.#killReason ??= reason
    this.#process.kill(signal)
  }

  #read (stream: Readable, keep: (chunk: Buffer) => void): void {
    // Always read, because a full pipe would block the engine.
    const throttle = this.#throttle(stream, outputPerSecond)
    stream.on('data', (chunk: Buffer) => {
      throttle.spend(chunk.byteLength)
      keep(chunk)
      this.#listener.activity()
    })
    stream.on('error', () => {}) // the exit of the process says more
  }

  #readChannel (): void {
    const decoder = new FrameDecoder()
    const throttle = this.#throttle(this.#channel, messagesPerSecond)
    this.#channel.on('data', (chunk: Buffer) => this.#guard(() => {
      this.#listener.activity()
      for (const frame of decoder.push(chunk)) {
        const message = readHostMessage(frame)
        throttle.spend(costOf(message, frame))
        this.#listener.message(message)
      }
    }))
    let ending = 'It closed its connection to the server.'
    this.#channel.on('end', () => {
      try {
        decoder.end()
      } catch (error) {
        ending = (error as ProtocolError).message
        this.#isCutShort = true
      }
    })
    this.#channel.on('error', () => {}) // as above: a write to a process that has just died
    // A process without a channel is useless. The delay is for one that crashed: its exit says more.
    this.#channel.on('close', () => this.#after(drainDelay, () => this.kill(ending)))
  }

  #throttle (stream: Readable, perSecond: number): Throttle {
    const throttle = new Throttle(stream, perSecond)
    this.#throttles.push(throttle)
    return throttle
  }

  /** After a breach of the protocol nothing more is read from the process. */
  #guard (action: () => void): void {
    if (this.#isGone || this.#killReason !== undefined) return
    try {
      action()
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      this.kill(error.message)
    }
  }

  #watchEnd (): void {
    this.#process.on('error', (error: NodeJS.ErrnoException) => {
      // Also emitted when a signal can't be sent to a process that may be alive.
      if (this.#process.pid === undefined) this.#gone(`It cannot be started: ${error.message}.`)
    })
    this.#process.once('exit', (code, signal) => {
      const gone = (): void => this.#gone(this.#endReason(code, signal))
      this.#process.once('close', gone)
      for (const throttle of this.#throttles) throttle.release()
      this.#after(drainDelay, gone)
    })
  }

  #gone (reason: string): void {
    if (this.#isGone) return
    this.#isGone = true
    for (const timer of this.#timers) clearTimeout(timer)
    for (const stream of this.#process.stdio) stream?.destroy()
    this.#listener.ended(reason)
    this.#resolveEnded()
  }

  #endReason (code: number | null, signal: NodeJS.Signals | null): string {
    if (this.#killReason !== undefined) return this.#killReason
    const how = (signal === null ? `It ended with exit code ${code}` : `It was ended by ${signal}`) +
      (this.#isCutShort ? ' in the middle of a message' : '')
    const why = this.#output.crashReason ??
      (signal === 'SIGKILL' ? 'most likely by the system, for want of memory' : undefined)
    return why === undefined ? `${how}.` : `${how}: ${why}`
  }

  #after (delay: number, action: () => void): void {
    if (this.#isGone) return
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      action()
    }, delay)
    timer.unref()
    this.#timers.add(timer)
  }
}

/** In messages of usual length. The bytes of images cost nothing, because their number and size are bounded. */
function costOf ({ type }: HostMessage, { length, bytes }: Frame): number {
  return 1 + (length + (type === 'preview' ? bytes.byteLength : 0)) / 1024
}
