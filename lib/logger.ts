import pino, { type Logger } from 'pino'
import pretty from 'pino-pretty'
import type { Options } from './options.ts'

/** Logs to standard output: readable on a terminal, JSON lines for everything else. */
export function createLogger ({ logLevel }: Pick<Options, 'logLevel'>): Logger {
  const destination = process.stdout.isTTY
    ? pretty({ colorize: true, ignore: 'pid,hostname', translateTime: 'HH:MM:ss', singleLine: true, sync: true })
    : pino.destination({ fd: 1, sync: true })
  return pino({ level: logLevel, timestamp: pino.stdTimeFunctions.isoTime }, destination)
}
