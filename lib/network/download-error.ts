/** Why a file could not be fetched, in words for the caller. */
export class DownloadError extends Error {
  /** Whether the same may work a moment later: the connection broke, the server was busy. */
  readonly isPassing: boolean
  constructor (message: string, { isPassing = false, ...options }: ErrorOptions & { isPassing?: boolean } = {}) {
    super(message, options)
    this.name = 'DownloadError'
    this.isPassing = isPassing
  }
}
