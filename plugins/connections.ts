import fp from 'fastify-plugin'
import type { FastifyRequest } from 'fastify'
import type { Socket } from 'node:net'
import { apiError } from '../errors.ts'
import { failBody, isBodyUnderWay } from '../lib/http/discard-body.ts'

/** Milliseconds. */
export interface ConnectionTimes {
  /** A connection on which nothing moves, while no handler is at work on it, is closed. */
  idle: number
  /** What the body of any request may take; each `slowestRate` bytes give it another second. */
  body: number
}

export const connectionTimes: ConnectionTimes = { idle: 150_000, body: 120_000 }

/** Bytes a second: a slow line may send an image of 20 MiB, and a client that sends nothing much is not waited for. */
const slowestRate = 32 * 1024

interface Options {
  times: ConnectionTimes
}

/** How long a connection may be quiet, and how slowly a body may come. */
export default fp<Options>(async (app, { times }) => {
  app.addHook('onRequest', (request, _reply, done) => {
    if (isBodyUnderWay(request.raw)) watchBody(request, times.body)
    done()
  })

  // From here on it is the handler that is waited for, with ?wait= for ten minutes. A client that does not read is not.
  app.addHook('preHandler', (_request, reply, done) => {
    reply.raw.on('timeout', endUnread)
    done()
  })
}, { name: 'connections', dependencies: ['errors'] })

/** With a listener Node.js leaves it to the listener to close the connection. */
function endUnread (socket: Socket): void {
  if (socket.writableLength > 0) socket.destroy()
}

function watchBody ({ raw }: FastifyRequest, patience: number): void {
  const { socket } = raw
  const began = performance.now()
  const before = socket.bytesRead
  function look (): void {
    const received = socket.bytesRead - before
    const left = began + patience + received / slowestRate * 1000 - performance.now()
    if (left > 0) {
      timer = setTimeout(look, left).unref()
      return
    }
    const expected = `the whole body within ${patience / 1000} s and another second for each ${slowestRate} bytes`
    const seconds = ((performance.now() - began) / 1000).toFixed(0)
    const error = apiError('SDR_REQUEST_TIMEOUT',
      `Expected ${expected} but received ${received} bytes in ${seconds} s.`)
    failBody(raw, error)
  }
  let timer = setTimeout(look, patience).unref()
  const stop = () => clearTimeout(timer)
  raw.once('end', stop).once('close', stop)
}
