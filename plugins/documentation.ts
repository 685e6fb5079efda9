import swaggerUi from '@fastify/swagger-ui'
import fp from 'fastify-plugin'
import type { FastifyRequest } from 'fastify'
import { toOpenApi30 } from '../lib/http/openapi-30.ts'
import { serversAt, withEmptyForms } from '../lib/http/openapi.ts'

const pagePath = '/api/docs'

/** Noise on the left becomes a picture on the right. */
const logo = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 260 40" height="40">
  <g fill="#8ab4f8">
    <circle cx="6" cy="10" r="1.5"/><circle cx="9" cy="27" r="1"/>` +
    `<circle cx="13" cy="18" r="2"/><circle cx="16" cy="33" r="1.5"/>
    <circle cx="18" cy="7" r="1"/><circle cx="21" cy="24" r="2.5"/><circle cx="25" cy="13" r="2"/>
  </g>
  <path d="M28 33 L38 14 L45 25 L50 18 L58 33 Z" fill="#fbbc04"/><circle cx="51" cy="9" r="4" fill="#fbbc04"/>
  <text x="68" y="26" font-family="system-ui, sans-serif" font-size="18" fill="#ffffff">stable-diffusion-rest</text>
</svg>`

/** There is one document, so nothing to explore. An error takes a line: all have one shape, which is shown once. */
const css = `
  .swagger-ui .topbar .download-url-wrapper { display: none }
  .swagger-ui .topbar { background: #1f2937; padding: 6px 0 }
  .swagger-ui .responses-table:not(.live-responses-table) .headers-wrapper { display: none }
  .swagger-ui .responses-table:not(.live-responses-table) .response-controls,
  .swagger-ui .responses-table:not(.live-responses-table) .response[data-code^='4'] .model-example,
  .swagger-ui .responses-table:not(.live-responses-table) .response[data-code^='5'] .model-example { display: none }
  .swagger-ui .responses-table:not(.live-responses-table) .response td { padding-bottom: 0 }
  .swagger-ui .response .renderedMarkdown p { margin: 0.2rem 0 }
  .swagger-ui .response-col_links { display: none }
  .swagger-ui .responses-table:not(.live-responses-table) .highlight-code pre { max-height: 3rem }
  .swagger-ui textarea.body-param__text { min-height: 6rem; height: 6rem }
  @media (max-width: 640px) {
    .swagger-ui .parameters tr, .swagger-ui .parameters td, .swagger-ui .parameters-col_name { display: block }
    .swagger-ui .parameters td { width: auto; min-width: 0; max-width: 100%; padding-right: 0 }
    .swagger-ui .opblock-section-request-body tr, .swagger-ui .opblock-section-request-body td { display: block }
    .swagger-ui .opblock-section-request-body td { width: auto; min-width: 0; padding-right: 0 }
    .swagger-ui .parameters thead { display: none }
    .swagger-ui .opblock-section-header .btn { min-width: 0; margin: 0 2px; padding: 5px 8px }
  }
  .swagger-ui .opblock-description-wrapper, .swagger-ui .responses-table td { padding-top: 0.3rem }
`

/**
 * Nothing from elsewhere, nothing inline but the one style sheet that Swagger UI makes for itself; `blob:` is for
 * images of answers. No `upgrade-insecure-requests`: on a loopback address there is no HTTPS to upgrade to.
 */
const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w='",
  "img-src 'self' data: blob:",
  "font-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'"
].join('; ')

/** Swagger UI at /api/docs and the document, in two versions of OpenAPI; all of it behind the guard. */
export default fp(async (app) => {
  await app.register(async (scope) => {
    // The page keeps credentials in the browser: no window that opened it may hold on to it.
    scope.addHook('onRequest', (_request, reply, done) => {
      reply.headers({ 'cross-origin-opener-policy': 'same-origin', 'content-security-policy': contentSecurityPolicy })
      done()
    })
    // Only at a URL that ends in a slash are Swagger UI's addresses relative, as they must be below a proxy's path.
    scope.addHook('preHandler', async ({ url, routeOptions }, reply) => {
      const isIndex = routeOptions.url === pagePath || routeOptions.url === `${pagePath}/`
      if (!isIndex || url.endsWith('/')) return
      return await reply.redirect(url.split('?', 1)[0]!.endsWith('/') ? './' : './docs/')
    })
    scope.addHook('onSend', async (_request, reply, payload) =>
      typeof payload === 'string' && String(reply.getHeader('content-type')).startsWith('text/html')
        ? payload.replace('<meta charset="UTF-8">', '$&<meta name="viewport" content="width=device-width">')
        : payload)
    scope.addHook('onRoute', route => {
      route.config = { ...route.config, permission: 'models:read' }
    })
    await scope.register(swaggerUi, {
      routePrefix: pagePath,
      transformSpecification: (document, request) => withEmptyForms(documentFor(document, request)),
      logo: { type: 'image/svg+xml', content: Buffer.from(logo), href: '/api/docs' },
      theme: { title: 'stable-diffusion-rest', css: [{ filename: 'theme.css', content: css }] },
      uiConfig: {
        persistAuthorization: true,
        displayRequestDuration: true,
        tryItOutEnabled: true,
        docExpansion: 'list',
        validatorUrl: null
      }
    })
    scope.get('/api/openapi.json', { schema: { hide: true } }, async request => documentFor(app.swagger(), request))
    scope.get('/api/openapi-3.0.json', { schema: { hide: true } }, async request =>
      toOpenApi30(documentFor(app.swagger(), request)))
  })
}, { name: 'documentation', dependencies: ['openapi'] })

/** The document with the address that the request was sent to. */
function documentFor<Document extends object> (document: Document, request: FastifyRequest): Document {
  const { protocol, host, server: { config: { basePath = '' } } } = request
  return { ...document, servers: serversAt(`${protocol}://${host}${basePath}`) }
}
