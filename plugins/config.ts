import fp from 'fastify-plugin'
import { dataFolders, prepareFolder, type DataFolders } from '../lib/options/folders.ts'
import type { Options } from '../lib/options/options.ts'

declare module 'fastify' {
  interface FastifyInstance {
    config: Options
    folders: DataFolders
  }
}

interface ConfigOptions {
  config: Options
}

/** The frozen options, and the data folders they lead to. */
export default fp<ConfigOptions>(async (app, { config }) => {
  const folders = dataFolders(config)
  prepareFolder(folders.data, '--data-dir')
  app.decorate('config', config)
  app.decorate('folders', folders)
}, { name: 'config' })
