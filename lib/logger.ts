import pino, { type Logger } from 'pino'
import type { Options } from './options.ts'

/** Logs to standard output: readable on a terminal, JSON lines for everything else. */
export async function createLogger ({ logLevel }: Pick<Options, 'logLevel'>): Promise<Logger> {
  const destination = process.stdout.isTTY
    ? (await import('pino-pretty')).default({ colorize: true, ignore: 'pid,hostname', translateTime: 'HH:MM:ss', singleLine: true, sync: true })
    : pino.destination({ fd: 1, sync: true })
  return pino({ level: logLevel, timestamp: pino.stdTimeFunctions.isoTime }, destination)
}
