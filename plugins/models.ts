import fp from 'fastify-plugin'
import { modelCacheFile, modelRoots } from '../lib/folders.ts'
import { ModelCatalog } from '../lib/models/catalog.ts'

declare module 'fastify' {
  interface FastifyInstance {
    models: ModelCatalog
  }
}

/** The models in the folders of the options, found at start and watched from then on. */
export default fp(async (app) => {
  const catalog = new ModelCatalog({
    roots: modelRoots(app.config),
    cacheFile: modelCacheFile(app.folders.data)
  })
  await catalog.refresh()
  catalog.watch()
  app.decorate('models', catalog)
  app.addHook('onClose', async () => catalog.close())
}, { name: 'models', dependencies: ['config'] })
