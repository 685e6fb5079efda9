import { writeSync } from 'node:fs'
import pino, { type DestinationStream, type Logger } from 'pino'
import type { Options } from '../../lib/options/options.ts'
import { rarely } from '../../lib/util/rarely.ts'
import { visibleField } from '../../lib/util/text.ts'

/** Bytes of log lines kept while they can't be written; later lines are dropped. */
const mostKept = 1024 * 1024

/** Logs to standard output: readable on a terminal, JSON lines for everything else. */
export async function createLogger ({ logLevel }: Pick<Options, 'logLevel'>): Promise<Logger> {
  const output = standardOutput()
  const timestamp = pino.stdTimeFunctions.isoTime
  if (!process.stdout.isTTY) return pino({ level: logLevel, timestamp }, output)
  const { default: pretty } = await import('pino-pretty')
  const terminal = pretty({
    colorize: true,
    ignore: 'pid,hostname',
    translateTime: 'HH:MM:ss',
    singleLine: true,
    destination: output
  })
  return pino({ level: logLevel, timestamp, hooks: { streamWrite: terminalLine } }, terminal)
}

/** A full disk below a redirected log must not end the server: the stream keeps the lines and tries again later. */
function standardOutput (): DestinationStream {
  const report = rarely(({ err }) => {
    try {
      writeSync(2, `stable-diffusion-rest: The log cannot be written: ${(err as Error).message}\n`)
    } catch {
      // Standard error is on the same disk: nothing is left that could carry the message.
    }
  })
  const output = pino.destination({ fd: 1, sync: true, maxLength: mostKept })
  output.on('error', (error: Error) => report(error))
  return output
}

/**
 * A log line, as JSON, whose texts can neither begin another line of the terminal nor control it. A stack keeps the
 * line ends before its frames and causes.
 */
export function terminalLine (line: string): string {
  const safe = JSON.parse(line, (name, value: unknown) => {
    if (typeof value !== 'string') return value
    return name === 'stack' ? value.split(/\n(?= +at |caused by: )/).map(visibleField).join('\n') : visibleField(value)
  }) as unknown
  return `${JSON.stringify(safe)}\n`
}
