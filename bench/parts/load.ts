import { once } from 'node:events'
import { connect } from 'node:net'

/** Each carries one request at a time: answers to pipelined ones would share system calls, as no real client's do. */
const connections = 10

/**
 * Sends the same GET request `count` times, as fast as the server takes it, at little cost to this process.
 * @throws when an answer is anything but 200.
 */
export async function load (url: string, headers: Record<string, string>, count: number): Promise<void> {
  const { hostname, port, pathname, search } = new URL(url)
  const lines = [
    `GET ${pathname}${search} HTTP/1.1`,
    `host: ${hostname}:${port}`,
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)
  ]
  const request = `${lines.join('\r\n')}\r\n\r\n`
  let isOver = false
  // A client that sleeps has to be woken. The system bills that to the server, and most of it to the slower one.
  const stayAwake = () => { if (!isOver) setImmediate(stayAwake) }
  stayAwake()
  await Promise.all(Array.from({ length: connections }, () =>
    sendAll({ hostname, port }, request, count / connections)))
    .finally(() => { isOver = true })
}

async function sendAll (
  { hostname, port }: { hostname: string, port: string }, request: string, count: number
): Promise<void> {
  const socket = connect(Number(port), hostname).setNoDelay()
  await once(socket, 'connect')
  let answered = 0
  await new Promise<void>((resolve, reject) => {
    socket.on('error', reject)
    socket.on('close', () => reject(new Error('The server closed a connection')))
    let rest = ''
    socket.setEncoding('latin1').on('data', (text: string) => {
      rest += text
      const end = endOfAnswer(rest)
      if (end === undefined) return
      if (!rest.startsWith('HTTP/1.1 200')) return reject(new Error(`The server answered ${rest.slice(0, 200)}`))
      rest = rest.slice(end)
      answered++
      if (answered >= count) resolve()
      else socket.write(request)
    })
    socket.write(request)
  })
  socket.removeAllListeners('close').destroy()
}

/** Where an answer ends; undefined when it is not all there. */
function endOfAnswer (text: string): number | undefined {
  const headers = text.indexOf('\r\n\r\n')
  const length = /\r\ncontent-length: (\d+)/i.exec(text.slice(0, headers))
  const end = headers + 4 + Number(length?.[1])
  return headers !== -1 && text.length >= end ? end : undefined
}
