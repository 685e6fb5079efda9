import swagger from '@fastify/swagger'
import fp from 'fastify-plugin'
import type { FastifySchema, RouteOptions } from 'fastify'
import type { ErrorCode } from '../errors.ts'
import { about, errorResponses, finish, hasLogins, securitySchemesOf } from '../lib/http/openapi.ts'
import type { TSchema } from '../lib/http/type.ts'
import { routeKey } from '../lib/http/public-paths.ts'
import { permissionsOf } from '../lib/http/route-needs.ts'
import { typedJob } from '../lib/generation/request-schema.ts'

declare module 'fastify' {
  interface FastifySchema {
    /** What this route can refuse with besides what any route can; only the OpenAPI document uses it. */
    errors?: readonly ErrorCode[]
    /** It works on sessions, so under a method without logins the document leaves it out. */
    needsLogins?: boolean
    /** The shape of its errors, where that is not ours: `shapeErrors` makes them. */
    errorSchema?: TSchema & { $id: string }
  }
}

/** The OpenAPI document, made from the schemas of the routes. */
export default fp(async (app) => {
  const { auth, enableGuestAccess, guestPermissions } = app.config
  const allowsGuests = enableGuestAccess || auth === 'optional'
  const securitySchemes = securitySchemesOf(auth)
  const security: Array<Record<string, string[]>> = Object.keys(securitySchemes).map(name => ({ [name]: [] }))

  /** What a route asks for, where that is something else than the whole document says. */
  function securityOf ({ method, url, config }: RouteOptions): typeof security | undefined {
    if (app.publicRoutes.has(routeKey({ method: [method].flat()[0]!, pattern: url }))) return []
    const needed = permissionsOf(config ?? {})
    const isForGuests = allowsGuests && config?.needsAccount !== true &&
      (needed.length === 0 || needed.some(permission => guestPermissions.includes(permission)))
    return isForGuests ? [...security, {}] : undefined
  }

  await app.register(swagger, {
    openapi: {
      ...about(auth),
      components: { securitySchemes },
      security
    },
    hideUntagged: true,
    refResolver: {
      buildLocalReference: (json, _baseUri, _fragment, index) =>
        typeof json.$id === 'string' ? json.$id : `schema-${index}`
    },
    transform ({ schema, url, route }) {
      const security = securityOf(route)
      const needed = permissionsOf(route.config ?? {}).map(permission => `\`${permission}\``)
      const description = [
        (schema as { description?: string }).description,
        needed.length > 0 && `Needs the permission ${needed.join(' or ')}.`
      ]
      return {
        schema: {
          ...schema,
          description: description.filter(Boolean).join(' '),
          ...((schema as FastifySchema).needsLogins === true && !hasLogins(auth) && { hide: true }),
          ...(security && { security })
        } as FastifySchema,
        url
      }
    },
    transformObject: document => 'openapiObject' in document
      ? finish(document.openapiObject as never, typedJob(app.config, app.engineInfo)) as never
      : document.swaggerObject
  })

  app.addHook('onRoute', route => {
    const schema = route.schema as (FastifySchema & { tags?: string[] }) | undefined
    if (schema?.tags === undefined) return
    schema.response = { ...errorResponses(route, schema), ...(schema.response as object) }
  })
}, { name: 'openapi', dependencies: ['public-routes'] })
