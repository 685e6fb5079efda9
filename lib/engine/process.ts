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
  /** For the first message of a new process. Default 60 000, because a GPU driver may be slow. */
  handshakeTimeout?: number
  /** From a cancel to the kill. Default 2000. */
  cancelGrace?: number
  /** Without any message or output during an operation. Default 600 000; `RunOptions` may override it. */
  silenceTimeout?: number
  /** From the request to shut down to SIGTERM. Default 2000. */
  stopGrace?: number
  /** Before the first restart after a crash; doubles with each further crash. Default 200. */
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

/** Per second: lines of the engine that are logged, and steps that are reported. */
const warningsPerSecond = 100
const linesPerSecond = 500
const stepsPerSecond = 100

/**
 * An engine in its own process. When that crashes, this side logs the reason and starts another one, with growing
 * delays, until `stop`. `run` waits for a start that is under way.
 */
export class EngineProcess implements Engine {
  readonly #command: EngineCommand
  readonly #options: Required<Omit<EngineProcessOptions, 'logger'>>
  readonly #logger: Logger | undefined
  #info: EngineInfo | undefined
  #generation = 0
  #restarts = 0
  #lastCrash: EngineStatus['last_crash'] = null
  /** Crashes since the last operation that ended. */
  #failures = 0
  #child: EngineChild | undefined
  /** The current start, from its backoff until its process ends. Undefined when no process is wanted. */
  #start: Promise<EngineInfo> | undefined
  /** Rejects the current start; defined during its backoff. */
  #rejectBackoff: ((error: EngineError) => void) | undefined
  #isReady = false
  #stopping: Promise<void> | undefined
  #running: Operation | undefined
  #lastId = 0
  readonly #warnings = new Rate(warningsPerSecond, count => this.#logSkipped('warn', count))
  readonly #lines = new Rate(linesPerSecond, count => this.#logSkipped('debug', count))
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
    if (this.#rejectBackoff !== undefined) return 'backing_off'
    if (!this.#isReady) return 'starting'
    return this.#running?.isSent ? 'busy' : 'idle'
  }

  /** After a failed first start, nothing is tried again until the next call. */
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
        operation.watchSilence(silenceTimeout, () => this.#killHung(operation, silenceTimeout))
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
    this.#rejectBackoff?.(stopped)
    if (this.#running !== undefined) this.#running.killError ??= stopped
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
          if (this.#isReady !== (message.type !== 'hello')) throw unexpectedMessage(message)
          if (message.type !== 'hello') return this.#receive(message)
          this.#checkName(message.info)
          clearTimeout(handshake)
          this.#isReady = true
          this.#info = this.#withoutConvert(message.info)
          resolve(this.#info)
        },
        activity: () => this.#running?.heard(),
        ended: (reason) => {
          clearTimeout(handshake)
          const wasReady = this.#isReady
          this.#handleEnd(reason, child)
          if (wasReady) this.#restart()
          else reject(new EngineError('engine_unavailable', `The engine process did not start. ${reason}`))
        }
      })
      const handshake = setTimeout(() => {
        child.kill(`It said nothing within ${handshakeTimeout / 1000} seconds of its start.`)
      }, handshakeTimeout).unref()
    })
  }

  #handleEnd (reason: string, child: EngineChild): void {
    this.#child = undefined
    this.#isReady = false
    this.#generation++
    const killError = this.#running?.killError
    const wasWanted = this.#start === undefined || killError?.code === 'cancelled'
    if (wasWanted) {
      this.#logger?.debug({}, 'The engine process has ended')
    } else {
      this.#failures++
      this.#lastCrash = { reason, at: new Date().toISOString() }
      this.#logger?.error({ reason, output: child.lastLines }, 'The engine process crashed')
    }
    if (this.#running?.isSent) {
      this.#running.reject(killError ?? new EngineError('engine_crashed', `The engine process crashed. ${reason}`))
    }
  }

  /** Starts another process after the backoff, until one start succeeds. */
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
        // Not unref'd: like a process, it keeps the server alive until `stop`.
        const timer = setTimeout(resolve, delay)
        this.#rejectBackoff = (error) => {
          clearTimeout(timer)
          reject(error)
        }
      })
    } finally {
      this.#rejectBackoff = undefined
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

  /** @throws {ProtocolError} for a message that this engine may not send now. */
  #receive (message: Exclude<HostMessage, { type: 'hello' }>): void {
    if (message.type === 'log') return this.#log(message)
    const operation = this.#running
    if (operation === undefined || !operation.isSent || operation.isSettled) throw unexpectedMessage(message)
    if (message.type === 'info') {
      this.#checkName(message.info)
      // Requests were checked against the capabilities of the first message.
      this.#info = { ...this.#info!, device: message.info.device }
      return
    }
    if (operation.id !== message.id) throw unexpectedMessage(message)
    switch (message.type) {
      case 'done':
        this.#failures = 0
        return operation.fulfil(message.result)
      case 'error':
        if (message.code === 'cancelled' && !operation.isCancelled) throw unexpectedMessage(message)
        this.#failures = 0
        return operation.reject(new EngineError(message.code, message.message))
      case 'progress':
        operation.expected.checkIndex(message.progress.index, 'progress')
        if (!operation.isNewPart(message.progress) && !this.#steps.admits()) return
        return this.#observed(operation, operation.observe('progress', message.progress))
      case 'preview':
        operation.expected.checkIndex(message.preview.index, 'preview')
        return this.#observed(operation, operation.observe('preview', message.preview))
      case 'image':
        operation.expected.add(message.image)
        return this.#observed(operation, operation.observe('image', message.image))
    }
  }

  /** An engine that runs as another user can't write into the models folders. */
  #withoutConvert (info: EngineInfo): EngineInfo {
    if (this.#command.user === undefined) return info
    return { ...info, capabilities: info.capabilities.filter(capability => capability !== 'convert') }
  }

  #checkName ({ engine }: EngineInfo): void {
    if (engine !== this.#command.engine) throw invalid('info.engine', this.#command.engine, engine)
  }

  /** The result of an operation whose observer failed is useless. */
  #observed (operation: Operation, isOk: boolean): void {
    if (!isOk) this.#cancel(operation)
  }

  #cancel (operation: Operation): void {
    const cancelled = new EngineError('cancelled', 'The operation was cancelled.')
    if (!operation.isSent) return operation.reject(cancelled)
    operation.isCancelled = true
    this.#child?.send({ type: 'cancel', id: operation.id })
    operation.startGrace(this.#options.cancelGrace, () => {
      operation.killError ??= cancelled
      this.#child?.terminate('It did not obey a cancel in time.')
    })
  }

  #killHung (operation: Operation, silenceTimeout: number): void {
    const reason = `It gave no sign of life for ${silenceTimeout / 1000} seconds and was killed.`
    operation.killError ??= new EngineError('engine_timeout', `The engine process hung. ${reason}`)
    this.#child?.kill(reason)
  }

  #log ({ level, text }: { level: LogLevel, text: string }): void {
    const isWarning = level === 'warn' || level === 'error'
    if ((isWarning ? this.#warnings : this.#lines).admits()) this.#write(isWarning ? 'warn' : 'debug', text)
  }

  #logSkipped (level: 'warn' | 'debug', count: number): void {
    this.#write(level, `The engine wrote ${count} more lines within a second, which are left out`)
  }

  /** What is information for the engine is a detail for the server. */
  #write (level: 'warn' | 'debug', text: string): void {
    this.#logger?.[level]({ engine: this.#command.engine }, text)
  }
}

function unexpectedMessage ({ type }: HostMessage): ProtocolError {
  return new ProtocolError('invalid_message', `The engine process sent something invalid: '${type}' out of turn.`)
}
