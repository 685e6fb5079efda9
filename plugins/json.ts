import { isUtf8 } from 'node:buffer'
import fp from 'fastify-plugin'
import type { FastifySchema } from 'fastify'
import { apiError, unexpected } from '../errors.ts'
import { findFault, jsonBounds, whyNotJson, type JsonBounds } from '../lib/util/json.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Bounds of a body in JSON that differ from those of every other. */
    json?: Partial<JsonBounds>
  }
}

/** JSON bodies: in UTF-8, of whole characters, not larger in memory than their text suggests, refused with a reason. */
export default fp(async (app) => {
  const parse = app.getDefaultJsonParser('error', 'error')

  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body: Buffer, done) => {
    // Many clients name the type of a body that they do not send.
    if (body.length === 0 && !needsBody(request.routeOptions.schema)) return done(null)
    if (!isUtf8(body)) return done(notJson('its text is not UTF-8'))
    const fault = findFault(body, { ...jsonBounds, ...request.routeOptions.config.json })
    if (fault === 'half') return done(notJson('an escape from \\ud800 to \\udfff has no other half'))
    if (fault !== undefined) return done(unexpected(fault))
    const text = body.toString()
    return parse(request, text, (error, value) => done(error === null ? null : notJson(whyNotJson(text)), value))
  })

  app.addHook('preParsing', (request, _reply, payload, done) => {
    const { 'content-encoding': coding = 'identity' } = request.headers
    if (coding !== 'identity' && request.routeOptions.schema?.body !== undefined) {
      throw apiError('SDR_UNSUPPORTED_MEDIA_TYPE', 'Expected a body that is not compressed (no Content-Encoding).')
    }
    done(null, payload)
  })
}, { name: 'json', dependencies: ['errors'] })

function notJson (reason: string): Error {
  return apiError('SDR_INVALID_JSON', `The body is not valid JSON: ${reason}.`)
}

function needsBody (schema: FastifySchema | undefined): boolean {
  const body = schema?.body as { anyOf?: Array<{ type?: string }> } | undefined
  return body !== undefined && body.anyOf?.some(({ type }) => type === 'null') !== true
}
