/** A host, or the proxy before it, can't be used. The message is for users, and holds no password. */
export class NetworkError extends Error {
  /** Whether another try may work: the connection broke, the server was busy. */
  readonly isPassing: boolean
  constructor (message: string, { isPassing = false, ...options }: ErrorOptions & { isPassing?: boolean } = {}) {
    super(message, options)
    this.name = 'NetworkError'
    this.isPassing = isPassing
  }
}
