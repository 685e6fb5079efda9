import type { CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import { EngineProcess } from '../../lib/engine/process.ts'
import { selectEngine } from '../../lib/engine/select.ts'
import { checkConvert, convertModel, type ConvertRequest } from '../../lib/models/files/convert.ts'
import { mebibytes } from '../../lib/storage/free-space.ts'
import { describeModel } from '../../lib/models/model.ts'
import { configurePuller } from '../../lib/models/pull/configure.ts'
import type { PullRequest } from '../../lib/models/pull/pull.ts'
import { removeModel } from '../../lib/models/files/remove.ts'
import { modelTypes, type ModelType } from '../../lib/models/types.ts'
import { visibleRow } from '../../lib/util/text.ts'
import { modelsCommand, showBytes } from '../support/models-command.ts'
import { say } from '../support/say.ts'

/** `models list|pull|hash|convert|remove`: the models folders of the options, also while a server runs. */
export const models: CommandModule = {
  builder: yargs => yargs
    .command(modelsCommand<{ type?: ModelType, json: boolean }>({
      command: 'list',
      describe: 'List the models: id, MiB, architecture, data type of the weights, and what is wrong with them',
      own: {
        type: { choices: modelTypes, requiresArg: true, describe: 'Only models of this type' },
        json: { type: 'boolean', default: false, describe: 'Everything that is known of them, as JSON' }
      },
      work: async ({ catalog }, { type, json }) => {
        const found = catalog.all().filter(model => type === undefined || model.type === type)
        if (json) return say(JSON.stringify(found.map(model => describeModel(model, { admin: true })), null, 2))
        for (const { id, size, architecture, summary, blocked, error } of found) {
          say(visibleRow([
            id,
            String(mebibytes(size)),
            architecture ?? '-',
            summary?.quantization ?? '-',
            blocked ?? error ?? ''
          ]))
        }
        for (const { path, message } of catalog.warnings) {
          process.stderr.write(`${visibleRow([`${path}: ${message}`])}\n`)
        }
      }
    }))
    .command(modelsCommand<PullRequest>({
      command: 'pull <source>',
      changesModels: true,
      describe: 'Fetch a model: a URL, or hf:owner/repository/file. ' +
        'After an interruption the same command goes on where it stopped',
      options: ['pull-hosts', 'max-pull-size', 'hf-endpoint', 'hf-token', 'pull-tokens-file'],
      own: {
        source: { type: 'string', describe: 'https://… or hf:owner/repository[@revision]/path/file' },
        type: {
          choices: modelTypes,
          requiresArg: true,
          describe: 'Chooses the folder; without it the file goes into the first --models-dir'
        },
        folder: { type: 'string', describe: 'Folder below that, made when it is missing' },
        name: { type: 'string', describe: 'File name; that at the end of the source unless said' },
        sha256: { type: 'string', describe: 'SHA-256 that the file must have' },
        overwrite: { type: 'boolean', default: false, describe: 'Replace a file of that name' }
      },
      work: async ({ options, catalog, staging, bar, signal }, { source, type, folder, name, sha256, overwrite }) => {
        await staging.sweep()
        const puller = configurePuller(options, { roots: catalog.roots, staging })
        const pulled = await puller.pull({ source, type, folder, name, sha256, overwrite }, {
          signal,
          progress: showBytes(bar, 'downloading')
        })
        bar.clear()
        await catalog.rescan()
        const model = catalog.at(pulled.path)
        if (model === undefined) {
          throw new CommandError(exitCodes.failure,
            `${pulled.path} came, but is not listed: a file of the same id lies in another folder`)
        }
        await catalog.remember(model, pulled.sha256)
        say(`${model.id}\t${mebibytes(pulled.size)} MiB\tsha256 ${pulled.sha256}`)
      }
    }))
    .command(modelsCommand<{ model: string }>({
      command: 'hash <model>',
      describe: 'Print the SHA-256 of a model\'s file, by which model sites know it; ' +
        'it is remembered until the file changes',
      own: { model: { type: 'string', describe: 'Id or name' } },
      work: async ({ catalog, bar, signal }, { model: wanted }) => {
        const model = catalog.find(wanted)
        const sha256 = await catalog.hash(model, { signal, progress: showBytes(bar, 'hashing') })
        bar.clear()
        say(`${sha256}  ${model.id}`)
      }
    }))
    .command(modelsCommand<Omit<ConvertRequest, 'weight_type'> & { 'weight-type': string }>({
      command: 'convert <model>',
      changesModels: true,
      describe: 'Write a model anew, as GGUF with weights of another type, beside the old one (native engine)',
      options: ['engine'],
      own: {
        model: { type: 'string', describe: 'Id or name' },
        'weight-type': { type: 'string', demandOption: true, describe: 'q8_0, f16 or what else the engine knows' },
        name: { type: 'string', describe: 'File name; NAME-TYPE.gguf unless said' },
        overwrite: { type: 'boolean', default: false, describe: 'Replace a file of that name' }
      },
      work: async (
        { options, catalog, staging, bar, signal }, { model, 'weight-type': weightType, name, overwrite }
      ) => {
        await staging.sweep()
        const request = { model, weight_type: weightType, name, overwrite }
        const engine = new EngineProcess(await selectEngine({ engine: options.engine }))
        try {
          await checkConvert(request, catalog, await engine.start())
          const { path } = await convertModel(request, { catalog, engine, staging }, {
            signal,
            progress: ({ step, steps }) =>
              bar.update(`converting ${step} of ${steps}`, steps === 0 ? 0 : step / steps)
          })
          bar.clear()
          await catalog.rescan()
          say(catalog.at(path)?.id ?? path)
        } finally {
          await engine.stop()
        }
      }
    }))
    .command(modelsCommand<{ model: string }>({
      command: 'remove <model>',
      changesModels: true,
      describe: 'Delete the file of a model; of one made of several files only the description. ' +
        'A running server notices',
      own: { model: { type: 'string', describe: 'Id' } },
      work: async ({ catalog }, { model }) => {
        await removeModel(model, catalog)
        say(`Removed ${model}.`)
      }
    }))
    .demandCommand(1, 'Say what to do: models list, pull, hash, convert or remove'),
  handler: () => {}
}
