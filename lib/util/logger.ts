type Log = (details: object, message: string) => void

/** The part of a pino logger that `lib/` uses. */
export interface Logger {
  debug: Log
  info: Log
  warn: Log
  error: Log
}
