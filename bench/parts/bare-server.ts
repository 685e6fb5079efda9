import Fastify from 'fastify'

/** The base of the authenticated route: Fastify with one route that answers with the same JSON. Argument: the JSON. */
const body = JSON.parse(process.argv[2]!) as object
const app = Fastify()
app.get('/api/models', async () => body)
console.log(await app.listen({ port: 0, host: '127.0.0.1' }))
