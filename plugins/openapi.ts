import swagger from '@fastify/swagger'
import fp from 'fastify-plugin'
import type { FastifySchema } from 'fastify'
import { routeKey } from '../lib/public-paths.ts'
import { version } from '../lib/version.ts'
import { ErrorResponse, Named } from '../routes/schemas.ts'

/** What any route can answer besides what it says itself. */
const commonErrors: Record<number, string> = {
  400: 'The request is not valid',
  401: 'Valid credentials are required',
  403: 'The account may not do that',
  429: 'Too many requests; Retry-After says when to come back',
  500: 'The server failed to answer',
  503: 'The server cannot do this at the moment'
}

const tags = [
  { name: 'generate', description: 'Make images. Every request becomes a job.' },
  { name: 'queue', description: 'Follow, fetch and cancel jobs.' },
  { name: 'models', description: 'What this server can draw with.' },
  { name: 'authentication', description: 'Log in and out; sessions and API keys.' },
  { name: 'users', description: 'Manage accounts.' },
  { name: 'server', description: 'How the server is.' }
]

/** The OpenAPI document, made from the schemas of the routes. */
export default fp(async (app) => {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'stable-diffusion-rest',
        version,
        description: 'Image generation with stable-diffusion.cpp over HTTP: submit a request, follow its job, fetch the images.',
        license: { name: 'MIT', identifier: 'MIT' }
      },
      servers: [{ url: '/', description: 'This server' }],
      tags,
      components: {
        securitySchemes: {
          token: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: 'The token of POST /api/auth/login, or an API key' },
          apiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key', description: 'An API key' }
        }
      },
      security: app.config.auth === 'none' ? [] : [{ token: [] }, { apiKey: [] }]
    },
    hideUntagged: true,
    refResolver: { buildLocalReference: (json, _baseUri, _fragment, index) => typeof json.$id === 'string' ? json.$id : `schema-${index}` },
    transform ({ schema, url, route }) {
      const isPublic = app.publicRoutes.has(routeKey({ method: [route.method].flat()[0] as string, pattern: url }))
      return { schema: { ...schema, ...(isPublic && { security: [] }) } as FastifySchema, url }
    }
  })

  app.addHook('onRoute', route => {
    const schema = route.schema as (FastifySchema & { tags?: string[] }) | undefined
    if (schema?.tags === undefined) return
    const errors = Object.entries(commonErrors).map(([status, description]) => [status, Named(ErrorResponse, description)])
    schema.response = { ...Object.fromEntries(errors), ...(schema.response as object) }
  })
}, { name: 'openapi', dependencies: ['auth'] })
