import { kill, pid, ppid } from 'bare-os'

/**
 * A thread of the portable host that ends the process when the server has died. The host can't see that while it reads
 * a model, which blocks its event loop for minutes.
 */
const interval = 500 // milliseconds

/** Process id of the server. From the host, because the server may have died before this thread started. */
const server = Bare.Thread.self.data

setInterval(() => {
  if (ppid() !== server) kill(pid(), 'SIGKILL')
}, interval)
