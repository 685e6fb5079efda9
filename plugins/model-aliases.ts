import fp from 'fastify-plugin'
import { ModelAliases } from '../lib/compat/model-aliases.ts'
import { drawingTypes } from '../lib/models/types.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** The names of --model-alias. */
    modelAliases: ModelAliases
  }
}

/** Other names of models, for the APIs of other programs. Models come and go, so one that is missing is no error. */
export default fp(async (app) => {
  const aliases = new ModelAliases(app.config.modelAlias)
  app.decorate('modelAliases', aliases)
  for (const model of aliases.targets) {
    try {
      app.models.resolve(model, { types: drawingTypes })
    } catch (error) {
      app.log.warn({ model, reason: (error as Error).message }, 'A model of --model-alias cannot be used')
    }
  }
}, { name: 'model-aliases', dependencies: ['config', 'models'] })
