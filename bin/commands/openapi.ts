import type { CommandModule } from 'yargs'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buildApp } from '../../app.ts'
import { optionsOf, withOptions } from '../command-options.ts'

/** `openapi`: prints the document that the server would serve with the same options. */
export const openapi: CommandModule = {
  command: 'openapi',
  describe: 'Print the OpenAPI document without starting a server',
  builder: yargs => withOptions(yargs),
  handler: async argv => {
    // The real data folder may be in use by a running server, and printing must leave no trace in it.
    const folder = mkdtempSync(join(tmpdir(), 'stable-diffusion-rest-'))
    const app = await buildApp(Object.freeze({ ...optionsOf(argv), dataDir: folder, authDataDir: undefined }))
    try {
      await app.ready()
      process.stdout.write(`${JSON.stringify(app.swagger(), null, 2)}\n`)
    } finally {
      await app.close()
      rmSync(folder, { recursive: true })
    }
  }
}
