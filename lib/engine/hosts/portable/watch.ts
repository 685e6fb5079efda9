import { kill, pid, ppid } from 'bare-os'

/**
 * Runs in a thread of the portable host. Reading a model blocks the host's event loop, for minutes with a large one,
 * and with it the eyes that would see the server die. This thread sees it all the same, and ends the process.
 */
const interval = 500 // milliseconds

/** Process id of the server, as the host found it: here it may be late for that. */
const server = Bare.Thread.self.data

setInterval(() => {
  if (ppid() !== server) kill(pid(), 'SIGKILL')
}, interval)
