import fp from 'fastify-plugin'
import { modelCacheFile, modelRoots, stagingFolder } from '../lib/options/folders.ts'
import { ModelCatalog } from '../lib/models/catalog.ts'
import { configurePuller } from '../lib/models/pull/configure.ts'
import type { Puller } from '../lib/models/pull/pull.ts'
import { StagingArea } from '../lib/models/files/staging.ts'

declare module 'fastify' {
  interface FastifyInstance {
    models: ModelCatalog
    /** Fetches models into the folders. */
    puller: Puller
    /** Model files that are half done. */
    staging: StagingArea
  }
}

const warningsShown = 5

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
  let warned = 0
  catalog.on('changed', ({ warnings }) => {
    if (warnings.length > 0 && warnings.length !== warned) {
      app.log.warn({ warnings: warnings.slice(0, warningsShown) },
        `Skipped or not readable in the models folders: ${warnings.length}; GET /api/models/directories shows all`)
    }
    warned = warnings.length
  })
  catalog.on('error', error =>
    app.log.error({ err: error }, 'The models folders changed, but can\'t be searched again'))
  await catalog.refresh()
  catalog.watch()
  app.decorate('models', catalog)
  app.addHook('onClose', async () => catalog.close())
}, { name: 'models', dependencies: ['config'] })
