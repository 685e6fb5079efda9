import fp from 'fastify-plugin'
import { modelCacheFile, modelRoots, stagingFolder } from '../lib/folders.ts'
import { ModelCatalog } from '../lib/models/catalog.ts'
import { configurePuller } from '../lib/models/pull/configure.ts'
import type { Puller } from '../lib/models/pull/pull.ts'
import { StagingArea } from '../lib/models/staging.ts'

declare module 'fastify' {
  interface FastifyInstance {
    models: ModelCatalog
    /** Fetches models into the folders. */
    puller: Puller
    /** Model files that are half done. */
    staging: StagingArea
  }
}

/** The models in the folders of the options, found at start and watched from then on. */
export default fp(async (app) => {
  const catalog = new ModelCatalog({
    roots: modelRoots(app.config),
    cacheFile: modelCacheFile(app.folders.data)
  })
  const staging = new StagingArea(stagingFolder(app.folders.data))
  app.decorate('staging', staging)
  app.decorate('puller', configurePuller(app.config, { roots: catalog.roots, staging }))
  await staging.sweep()
  await catalog.refresh()
  catalog.watch()
  app.decorate('models', catalog)
  app.addHook('onClose', async () => catalog.close())
}, { name: 'models', dependencies: ['config'] })
