import { execFile } from 'node:child_process'

/** Milliseconds that the message may take. */
const timeout = 5000

/**
 * Tells systemd how the service is, when it is one of `Type=notify`. Through `systemd-notify`, because Node.js has no
 * sockets of the kind that the message needs; it waits until systemd has read the message.
 * @returns why it could not be told
 */
export async function tellServiceManager (state: 'READY=1' | 'STOPPING=1'): Promise<string | undefined> {
  const { NOTIFY_SOCKET: socket, PATH } = process.env
  if (socket === undefined) return undefined
  return await new Promise(resolve => {
    const options = { timeout, env: { NOTIFY_SOCKET: socket, PATH } }
    execFile('systemd-notify', [state], options, error => resolve(error?.message))
  })
}
