import type { CommandModule } from 'yargs'
import { optionsOf, withOptions } from '../support/command-options.ts'
import { toOpenApi30 } from '../../lib/http/openapi-30.ts'
import { say } from '../support/say.ts'
import { withThrowawayApp } from '../support/throwaway-app.ts'

/** `openapi`: prints the document that the server would serve with the same options. */
export const openapi: CommandModule = {
  builder: yargs => withOptions(yargs, undefined, {
    own: {
      spec: { choices: ['3.1', '3.0'], default: '3.1', describe: 'Version of OpenAPI; some generators read 3.0 only' }
    }
  }),
  handler: async argv => {
    await withThrowawayApp(optionsOf(argv), app => {
      const document = app.swagger()
      say(JSON.stringify(argv.spec === '3.0' ? toOpenApi30(document) : document, null, 2))
    })
  }
}
