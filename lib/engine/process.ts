import type { Logger } from '../util/logger.ts'
import { EngineChild, type EngineCommand } from './child.ts'
import {
  EngineError, type Engine, type EngineInfo, type EngineState, type EngineStatus, type OperationName, type Operations,
  type RunOptions
} from './engine.ts'
import { ExpectedImages } from './expected-images.ts'
import { invalid } from './host-message.ts'
import { Operation } from './operation.ts'
import { ProtocolError, type HostMessage, type LogLevel } from './protocol.ts'
import { Rate } from './rate.ts'

/** All times in milliseconds. */
export interface EngineProcessOptions {
  /** For the first message of a new process. Default 60 000: a GPU driver may take its time. */
  handshakeTimeout?: number
  /** From a cancel to the kill. Default 2000. */
  cancelGrace?: number
  /** Without any message or output, while an operation runs. Default 600 000; `RunOptions` may say otherwise. */
  silenceTimeout?: number
  /** For a process that is asked to end, before it gets a signal. Default 2000. */
  stopGrace?: number
  /** Before the first restart after a crash; doubles with each further crash in a row. Default 200. */
  firstBackoff?: number
  /** Default 30 000. */
  longestBackoff?: number
  logger?: Logger
}

const defaults = {
  handshakeTimeout: 60_000,
  cancelGrace: 2000,
  silenceTimeout: 600_000,
  stopGrace: 2000,
  firstBackoff: 200,
  longestBackoff: 30_000
}

/** In a second: lines of the engine that are logged, of each importance, and steps that are told. */
const complaintsPerSecond = 100
const linesPerSecond = 500
const stepsPerSecond = 100

/**
 * An engine in a process of its own: whatever happens there, this side stays up, says why, and starts another one.
 *
 * After a crash the process is started again, soon at first, then less and less often, until `stop`. `run` waits for a
 * start that is under way.
 */
export class EngineProcess implements Engine {
  readonly #command: EngineCommand
  readonly #options: Required<Omit<EngineProcessOptions, 'logger'>>
  readonly #logger: Logger | undefined
  #info: EngineInfo | undefined
  #generation = 0
  #restarts = 0
  #lastCrash: EngineStatus['last_crash'] = null
  /** Crashes since the last operation that came to its end. */
  #failures = 0
  #child: EngineChild | undefined
  /** The present start, from the wait before it until its process is gone. Undefined when no process is wanted. */
  #start: Promise<EngineInfo> | undefined
  /** Rejects the present start; there while it waits for its time. */
  #abandonBackoff: ((error: EngineError) => void) | undefined
  #isReady = false
  #stopping: Promise<void> | undefined
  #running: Operation | undefined
  #lastId = 0
  readonly #complaints = new Rate(complaintsPerSecond, count => this.#tellLeftOut('warn', count))
  readonly #lines = new Rate(linesPerSecond, count => this.#tellLeftOut('debug', count))
  readonly #steps = new Rate(stepsPerSecond)

  constructor (command: EngineCommand, { logger, ...options }: EngineProcessOptions = {}) {
    this.#command = command
    this.#options = { ...defaults, ...options }
    this.#logger = logger
  }

  get info (): EngineInfo | undefined {
    return this.#info
  }

  get generation (): number {
    return this.#generation
  }

  get status (): EngineStatus {
    return {
      engine: this.#command.engine,
      state: this.#state,
      pid: this.#child?.pid ?? null,
      restarts: this.#restarts,
      last_crash: this.#lastCrash
    }
  }

  get #state (): EngineState {
    if (this.#start === undefined) return 'stopped'
    if (this.#abandonBackoff !== undefined) return 'backing_off'
    if (!this.#isReady) return 'starting'
    return this.#running?.isSent ? 'busy' : 'idle'
  }

  /**
   * Starts the process, or waits for the start that is under way.
   * @throws {EngineError} engine_unavailable. After a failed first start nothing is tried again until the next call.
   */
  async start (): Promise<EngineInfo> {
    if (this.#stopping !== undefined) await this.#stopping
    if (this.#start === undefined) {
      this.#generation++
      const start = this.#start = this.#launch()
      start.catch(() => {
        if (this.#start === start) this.#start = undefined
      })
    }
    return await this.#start
  }

  async run<Name extends OperationName> (
    name: Name, parameters: Operations[Name]['parameters'], options: RunOptions = {}
  ): Promise<Operations[Name]['result']> {
    if (this.#running !== undefined) throw new EngineError('engine_busy', 'The engine is busy with something else.')
    if (this.#start === undefined) throw new EngineError('engine_unavailable', 'The engine is not started.')
    const { attachments = {}, signal, silenceTimeout = this.#options.silenceTimeout } = options
    const expected = new ExpectedImages(name, parameters, attachments)
    const operation = this.#running = new Operation(++this.#lastId, options, expected)
    const cancel = (): void => this.#cancel(operation)
    signal?.addEventListener('abort', cancel)
    if (signal?.aborted) cancel()
    try {
      await Promise.race([this.#start, operation.outcome])
      if (!operation.isSettled) {
        this.#send(operation, name, parameters, attachments)
        operation.watchSilence(silenceTimeout, () => this.#giveUp(operation, silenceTimeout))
      }
      return await operation.outcome as Operations[Name]['result']
    } finally {
      signal?.removeEventListener('abort', cancel)
      operation.clear()
      this.#running = undefined
    }
  }

  async stop (): Promise<void> {
    this.#stopping ??= this.#end().finally(() => { this.#stopping = undefined })
    await this.#stopping
  }

  async #end (): Promise<void> {
    const stopped = new EngineError('engine_unavailable', 'The engine was stopped.')
    this.#start = undefined
    this.#abandonBackoff?.(stopped)
    if (this.#running !== undefined) this.#running.verdict ??= stopped
    const child = this.#child
    if (child === undefined) return
    child.send({ type: 'shutdown' })
    const { stopGrace } = this.#options
    const timer = setTimeout(() => child.terminate('It did not end when it was asked to.'), stopGrace).unref()
    await child.ended
    clearTimeout(timer)
  }

  #launch (): Promise<EngineInfo> {
    return new Promise((resolve, reject) => {
      const { handshakeTimeout } = this.#options
      const child = this.#child = new EngineChild(this.#command, {
        message: (message) => {
          if (this.#isReady !== (message.type !== 'hello')) throw outOfTurn(message)
          if (message.type !== 'hello') return this.#receive(message)
          this.#checkName(message.info)
          clearTimeout(handshake)
          this.#isReady = true
          this.#info = this.#usable(message.info)
          resolve(this.#info)
        },
        life: () => this.#running?.life(),
        gone: (reason) => {
          clearTimeout(handshake)
          const wasReady = this.#isReady
          this.#lost(reason, child)
          if (wasReady) this.#restart()
          else reject(new EngineError('engine_unavailable', `The engine process did not start. ${reason}`))
        }
      })
      const handshake = setTimeout(() => {
        child.kill(`It said nothing within ${handshakeTimeout / 1000} seconds of its start.`)
      }, handshakeTimeout).unref()
    })
  }

  /** Books the end of a process. */
  #lost (reason: string, child: EngineChild): void {
    this.#child = undefined
    this.#isReady = false
    this.#generation++
    const verdict = this.#running?.verdict
    const wasWanted = this.#start === undefined || verdict?.code === 'cancelled'
    if (wasWanted) {
      this.#logger?.debug({}, 'The engine process has ended')
    } else {
      this.#failures++
      this.#lastCrash = { reason, at: new Date().toISOString() }
      this.#logger?.error({ reason, output: child.lastLines }, 'The engine process crashed')
    }
    if (this.#running?.isSent) {
      this.#running.reject(verdict ?? new EngineError('engine_crashed', `The engine process crashed. ${reason}`))
    }
  }

  /** Starts another process when its time has come, and again until that succeeds. */
  #restart (): void {
    if (this.#start === undefined) return
    const start = this.#start = this.#backoff().then(async () => {
      this.#restarts++
      const info = await this.#launch()
      this.#logger?.info({ restarts: this.#restarts }, 'Another engine process is ready')
      return info
    })
    start.catch(() => {
      if (this.#start === start) this.#restart()
    })
  }

  async #backoff (): Promise<void> {
    if (this.#failures === 0) return
    const { firstBackoff, longestBackoff } = this.#options
    const delay = Math.min(firstBackoff * 2 ** (this.#failures - 1), longestBackoff)
    try {
      await new Promise<void>((resolve, reject) => {
        // Not unref'd: like the process that it stands for, it holds the server until `stop`.
        const timer = setTimeout(resolve, delay)
        this.#abandonBackoff = (error) => {
          clearTimeout(timer)
          reject(error)
        }
      })
    } finally {
      this.#abandonBackoff = undefined
    }
  }

  #send (operation: Operation, name: OperationName, parameters: object, attachments: Record<string, Uint8Array>): void {
    try {
      this.#child!.send({ type: 'run', id: operation.id, operation: name, parameters, attachments })
      operation.isSent = true
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      const message = `The request is too large for the engine. ${error.message}`
      throw new EngineError('invalid_parameters', message, { cause: error })
    }
  }

  /** @throws {ProtocolError} for what this engine cannot have to say now. */
  #receive (message: Exclude<HostMessage, { type: 'hello' }>): void {
    if (message.type === 'log') return this.#log(message)
    const operation = this.#running
    if (operation === undefined || !operation.isSent || operation.isSettled) throw outOfTurn(message)
    if (message.type === 'info') {
      this.#checkName(message.info)
      // What an engine can do was said at its start, and requests were checked against it.
      this.#info = { ...this.#info!, device: message.info.device }
      return
    }
    if (operation.id !== message.id) throw outOfTurn(message)
    switch (message.type) {
      case 'done':
        this.#failures = 0
        return operation.fulfil(message.result)
      case 'error':
        if (message.code === 'cancelled' && !operation.isCancelled) throw outOfTurn(message)
        this.#failures = 0
        return operation.reject(new EngineError(message.code, message.message))
      case 'progress':
        operation.expected.checkIndex(message.progress.index, 'progress')
        if (!operation.isNews(message.progress) && !this.#steps.admits()) return
        return this.#observed(operation, operation.observe('progress', message.progress))
      case 'preview':
        operation.expected.checkIndex(message.preview.index, 'preview')
        return this.#observed(operation, operation.observe('preview', message.preview))
      case 'image':
        operation.expected.add(message.image)
        return this.#observed(operation, operation.observe('image', message.image))
    }
  }

  /** Of what it can do, an engine with a user of its own cannot write files. */
  #usable (info: EngineInfo): EngineInfo {
    if (this.#command.user === undefined) return info
    return { ...info, capabilities: info.capabilities.filter(capability => capability !== 'convert') }
  }

  #checkName ({ engine }: EngineInfo): void {
    if (engine !== this.#command.engine) throw invalid('info.engine', this.#command.engine, engine)
  }

  /** The rest of an operation whose observer has failed is of no use. */
  #observed (operation: Operation, isWell: boolean): void {
    if (!isWell) this.#cancel(operation)
  }

  #cancel (operation: Operation): void {
    const cancelled = new EngineError('cancelled', 'The operation was cancelled.')
    if (!operation.isSent) return operation.reject(cancelled)
    operation.isCancelled = true
    this.#child?.send({ type: 'cancel', id: operation.id })
    operation.startGrace(this.#options.cancelGrace, () => {
      operation.verdict ??= cancelled
      this.#child?.terminate('It did not obey a cancel in time.')
    })
  }

  #giveUp (operation: Operation, silenceTimeout: number): void {
    const reason = `It gave no sign of life for ${silenceTimeout / 1000} seconds and was killed.`
    operation.verdict ??= new EngineError('engine_timeout', `The engine process hung. ${reason}`)
    this.#child?.kill(reason)
  }

  #log ({ level, text }: { level: LogLevel, text: string }): void {
    const isComplaint = level === 'warn' || level === 'error'
    if ((isComplaint ? this.#complaints : this.#lines).admits()) this.#write(isComplaint ? 'warn' : 'debug', text)
  }

  #tellLeftOut (level: 'warn' | 'debug', count: number): void {
    this.#write(level, `The engine wrote ${count} more lines within a second, which are left out`)
  }

  /** The engine's information is detail to the rest of the server. */
  #write (level: 'warn' | 'debug', text: string): void {
    this.#logger?.[level]({ engine: this.#command.engine }, text)
  }
}

function outOfTurn ({ type }: HostMessage): ProtocolError {
  return new ProtocolError('invalid_message', `The engine process sent something invalid: '${type}' out of turn.`)
}
