import {
  EngineError, hostErrorCodes, phases, type EngineImage, type EngineInfo, type HostErrorCode, type OperationName,
  type Operations, type Preview, type Progress
} from '../engine.ts'
import {
  FrameDecoder, decodeServerMessage, encodeHostMessage, maximumPreview, protocolVersion,
  type HostMessage, type LogLevel, type ServerMessage
} from '../protocol.ts'

/** The part of an engine process that all hosts share. It runs under Node.js and Bare: no `node:` imports here. */

/** Messages of a host during an operation. */
export interface Reporter {
  /** Progress that goes back is not sent. */
  progress: (progress: Progress) => void
  preview: (preview: Preview) => void
  image: (image: EngineImage) => void
  log: (level: LogLevel, text: string) => void
  /** The description of the engine changed, for example its device. */
  info: (info: EngineInfo) => void
}

/** Characters of a text: the server keeps no more, and messages are bounded. */
const longestText = 10_000

export type Attachments = Record<string, Uint8Array>

/** What a host provides; `serveHost` calls one operation at a time. */
export interface HostEngine {
  readonly info: EngineInfo
  readonly operations: {
    [Name in OperationName]?: (
      parameters: Operations[Name]['parameters'], attachments: Attachments, report: Reporter
    ) => Promise<Operations[Name]['result']>
  }
  /** Makes the running operation fail soon, with any error. */
  cancel: () => void
}

/** The duplex stream to the server: a `net.Socket` of Node.js or a `Pipe` of Bare. */
interface Channel {
  write (bytes: Uint8Array): unknown
  on (event: 'data', listener: (chunk: Uint8Array) => void): unknown
  on (event: 'close' | 'error' | 'end', listener: (error?: Error) => void): unknown
}

/**
 * Serves operations until the server closes the channel or asks to shut down, then calls `exit`, which must end the
 * process at once, because no server takes the result.
 */
export function serveHost (engine: HostEngine, channel: Channel, exit: () => void): void {
  const decoder = new FrameDecoder()
  let running: { id: number, cancelled: boolean } | undefined

  const send = (message: HostMessage): void => {
    for (const piece of encodeHostMessage(message)) channel.write(piece)
  }

  const run = async ({ id, operation, parameters, attachments }: ServerMessage & { type: 'run' }): Promise<void> => {
    if (running !== undefined) {
      return send({ type: 'error', id, code: 'generation_failed', message: 'An operation is running already.' })
    }
    const current = running = { id, cancelled: false }
    try {
      const implementation = engine.operations[operation] as HostEngine['operations']['load'] | undefined
      if (implementation === undefined) {
        throw new EngineError('unsupported', `The ${engine.info.engine} engine has no operation '${operation}'.`)
      }
      const report = reporter(id, send, () => running === current)
      const result = await implementation(parameters as Operations['load']['parameters'], attachments, report)
      running = undefined
      send({ type: 'done', id, result })
    } catch (error) {
      running = undefined
      send({ type: 'error', id, ...errorFields(error, current.cancelled) })
    }
  }

  const receive = (message: ServerMessage): void => {
    if (message.type === 'shutdown') return exit()
    if (message.type === 'run') {
      run(message) // answers with its own errors
      return
    }
    if (running?.id === message.id) {
      running.cancelled = true
      engine.cancel()
    }
  }

  channel.on('data', (chunk) => {
    for (const frame of decoder.push(chunk)) receive(decodeServerMessage(frame))
  })
  for (const event of ['end', 'close', 'error'] as const) channel.on(event, exit)
  send({ type: 'hello', protocol: protocolVersion, info: engine.info })
}

/** Nothing may follow the end of an operation, so later reports of the library are dropped. */
function reporter (id: number, send: (message: HostMessage) => void, isRunning: () => boolean): Reporter {
  let last: Progress | undefined
  return {
    progress: (progress) => {
      if (!isRunning()) return
      if (last !== undefined && !isLater(progress, last)) return
      last = progress
      send({ type: 'progress', id, progress })
    },
    preview: (preview) => {
      if (isRunning() && preview.png.byteLength <= maximumPreview) send({ type: 'preview', id, preview })
    },
    image: (image) => { if (isRunning()) send({ type: 'image', id, image }) },
    log: (level, text) => send({ type: 'log', level, text: text.slice(0, longestText) }),
    info: (info) => send({ type: 'info', info })
  }
}

/** Engines repeat steps and restart their counters (hires fix, refiners); a progress bar must not jump back. */
function isLater (next: Progress, last: Progress): boolean {
  const byPhase = phases.indexOf(next.phase) - phases.indexOf(last.phase)
  return (byPhase || next.index - last.index || next.step - last.step) > 0
}

function errorFields (error: unknown, cancelled: boolean): { code: HostErrorCode, message: string } {
  if (cancelled) return { code: 'cancelled', message: 'The operation was cancelled.' }
  const message = (error instanceof Error ? error.message : String(error)).slice(0, longestText)
  const code = hostErrorCodes.find(code => error instanceof EngineError && error.code === code) ?? 'generation_failed'
  return { code, message }
}
