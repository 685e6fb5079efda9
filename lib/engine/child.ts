import { spawn, type ChildProcess } from 'node:child_process'
import type { Duplex, Readable } from 'node:stream'
import { leaveToServer } from '../util/background-process.ts'
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
  /** The user that it becomes, when that is not the one of this process (engine-user.ts). */
  user?: string
}

interface ChildListener {
  message: (message: HostMessage) => void
  /** Any message and any output: proof that the process is not hung. */
  life: () => void
  /** The process has ended; `reason` is a sentence for people. Called once, and nothing else after it. */
  gone: (reason: string) => void
}

/** When memory is short, Linux ends an engine rather than the server. */
export const manners = { niceness: 10, outOfMemoryScore: 500 }
/** Milliseconds from SIGTERM to SIGKILL. */
const killDelay = 2000
/** Milliseconds for which output may still arrive after the end, when something else holds the pipes open. */
const drainDelay = 500
/** Bytes of its outputs, and messages, that are read in a second: an engine must not keep this process busy. */
const outputPerSecond = 32 * 1024 * 1024
const messagesPerSecond = 10_000

/** One engine process from its start to its end. It is never used again after a failure. */
export class EngineChild {
  /** Fulfilled when the process is gone. */
  readonly ended: Promise<void>
  readonly #process: ChildProcess
  readonly #channel: Duplex
  readonly #listener: ChildListener
  readonly #output = new OutputTail()
  readonly #timers = new Set<NodeJS.Timeout>()
  readonly #throttles: Throttle[] = []
  /** Why this end killed it, when it did. */
  #verdict: string | undefined
  #isGone = false
  /** Did its last message break off? */
  #isCutShort = false
  #tellEnd!: () => void

  constructor ({ file, args, user }: EngineCommand, listener: ChildListener) {
    this.#listener = listener
    this.ended = new Promise((resolve) => { this.#tellEnd = resolve })
    this.#process = spawn(file, args, {
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
      env: engineEnvironment(process.env, user),
      // In a session of its own, so that a Ctrl-C in the terminal lets the server finish the running job.
      detached: process.platform !== 'win32',
      windowsHide: true
    })
    const { stdout, stderr, stdio, pid } = this.#process
    this.#channel = stdio[3] as Duplex
    this.#watchEnd()
    this.#read(stdout!, () => {})
    this.#read(stderr!, (chunk) => this.#output.add(chunk))
    this.#readChannel()
    // One with a user of its own does that itself (engine-user.ts).
    if (pid !== undefined && user === undefined) leaveToServer(pid, manners)
  }

  get pid (): number | null {
    return this.#process.pid ?? null
  }

  /** The last lines that the process wrote to its standard error, oldest first. */
  get lastLines (): string[] {
    return this.#output.lines
  }

  send (message: ServerMessage): void {
    for (const piece of encodeServerMessage(message)) this.#channel.write(piece)
  }

  /** Ends the process: with SIGTERM, and with SIGKILL when it does not go. */
  terminate (verdict: string): void {
    this.#end(verdict, 'SIGTERM')
    this.#after(killDelay, () => this.#process.kill('SIGKILL'))
  }

  /** Ends the process at once. */
  kill (verdict: string): void {
    this.#end(verdict, 'SIGKILL')
  }

  #end (verdict: string, signal: NodeJS.Signals): void {
    this.#verdict ??= verdict
    this.#process.kill(signal)
  }

  #read (stream: Readable, keep: (chunk: Buffer) => void): void {
    // Always flowing: a full pipe would block the engine.
    const throttle = this.#throttle(stream, outputPerSecond)
    stream.on('data', (chunk: Buffer) => {
      throttle.spend(chunk.byteLength)
      keep(chunk)
      this.#listener.life()
    })
    stream.on('error', () => {}) // the end of the process says more
  }

  #readChannel (): void {
    const decoder = new FrameDecoder()
    const throttle = this.#throttle(this.#channel, messagesPerSecond)
    this.#channel.on('data', (chunk: Buffer) => this.#guard(() => {
      this.#listener.life()
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
    this.#channel.on('error', () => {}) // as above: writing to a process that has just died
    // A process that can't be talked to is of no use. One that has crashed is gone by then, and its end says more: it
    // may have been in the middle of a message.
    this.#channel.on('close', () => this.#after(drainDelay, () => this.kill(ending)))
  }

  #throttle (stream: Readable, perSecond: number): Throttle {
    const throttle = new Throttle(stream, perSecond)
    this.#throttles.push(throttle)
    return throttle
  }

  /** A process that breaks the protocol once is not listened to again. */
  #guard (action: () => void): void {
    if (this.#isGone || this.#verdict !== undefined) return
    try {
      action()
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      this.kill(error.message)
    }
  }

  #watchEnd (): void {
    this.#process.on('error', (error: NodeJS.ErrnoException) => {
      // Also emitted when a signal can't be sent; then the process may well be alive.
      if (this.#process.pid === undefined) this.#gone(`It cannot be started: ${error.message}.`)
    })
    this.#process.once('exit', (code, signal) => {
      const gone = (): void => this.#gone(this.#describeEnd(code, signal))
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
    this.#listener.gone(reason)
    this.#tellEnd()
  }

  #describeEnd (code: number | null, signal: NodeJS.Signals | null): string {
    if (this.#verdict !== undefined) return this.#verdict
    const how = (signal === null ? `It ended with exit code ${code}` : `It was ended by ${signal}`) +
      (this.#isCutShort ? ' in the middle of a message' : '')
    const why = this.#output.complaint ??
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

/** In messages of usual length. The bytes of images cost nothing: their number and size have bounds of their own. */
function costOf ({ type }: HostMessage, { length, bytes }: Frame): number {
  return 1 + (length + (type === 'preview' ? bytes.byteLength : 0)) / 1024
}
