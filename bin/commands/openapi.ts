import type { CommandModule } from 'yargs'
import { optionsOf, withOptions } from '../support/command-options.ts'
import { say } from '../support/say.ts'
import { withThrowawayApp } from '../support/throwaway-app.ts'

/** `openapi`: prints the document that the server would serve with the same options. */
export const openapi: CommandModule = {
  builder: yargs => withOptions(yargs),
  handler: async argv => {
    await withThrowawayApp(optionsOf(argv), app => say(JSON.stringify(app.swagger(), null, 2)))
  }
}
