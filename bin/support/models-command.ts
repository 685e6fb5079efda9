import { userInfo } from 'node:os'
import { join } from 'node:path'
import type { CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import {
  dataFolders, modelFolderOptions, modelRoots, prepareFolder, modelCacheFile, stagingFolder
} from '../../lib/options/folders.ts'
import { actAsOwnerOf, haveOneOwner, isForeignToRoot } from '../../lib/storage/ownership.ts'
import { isStorageFull } from '../../lib/storage/storage-errors.ts'
import { ModelCatalog } from '../../lib/models/catalog.ts'
import { mebibytes } from '../../lib/storage/free-space.ts'
import { StagingArea } from '../../lib/models/files/staging.ts'
import { optionNames, type OptionName, type Options } from '../../lib/options/options.ts'
import { camelCase } from '../../lib/options/resolve.ts'
import { ProgressBar } from './progress-bar.ts'
import { optionsOf, withOptions, type OwnArguments } from './command-options.ts'

/** What the commands on models work with; a server may have the same folders at the same time. */
interface Collection {
  options: Options
  /** As the folders are now. */
  catalog: ModelCatalog
  staging: StagingArea
  bar: ProgressBar
  /** Aborted by Ctrl-C. */
  signal: AbortSignal
}

interface ModelsCommand<Arguments> extends OwnArguments {
  describe: string
  /** Options of the server beside those that say where models are. */
  options?: OptionName[]
  /** Whether it makes or deletes files in the models folders. */
  changesModels?: boolean
  work: (collection: Collection, argv: Arguments) => Promise<void>
}

const folderOptions = optionNames.filter(name =>
  name === 'data-dir' || modelFolderOptions.some(option => option === camelCase(name)))

/** A command that looks at the models folders of the options and works on what is there. */
export function modelsCommand<Arguments> (
  { command, describe, own, options: more = [], changesModels = false, work }: ModelsCommand<Arguments>
): CommandModule {
  return {
    command,
    describe,
    builder: yargs => withOptions(yargs, [...folderOptions, ...more], { command, own }),
    handler: async argv => {
      const options = optionsOf(argv)
      const roots = modelRoots(options)
      if (roots.length === 0) {
        throw new CommandError(exitCodes.usage,
          'There is no models folder; name one with --models-dir, or where the server has it, ' +
          'in SDREST_MODELS_DIR or --config')
      }
      const data = workFolder(options, changesModels ? roots.map(({ path }) => path) : [])
      prepareFolder(data, '--data-dir')
      const bar = new ProgressBar()
      const interrupted = new AbortController()
      const interrupt = () => interrupted.abort(new CommandError(exitCodes.failure, 'Interrupted'))
      process.once('SIGINT', interrupt)
      try {
        const catalog = new ModelCatalog({ roots, cacheFile: modelCacheFile(data) })
        await catalog.refresh({
          progress: ({ read, total }) => bar.update(`reading ${read} of ${total} headers`, read / total)
        })
        bar.clear()
        await work({
          options,
          catalog,
          staging: new StagingArea(stagingFolder(data)),
          bar,
          signal: interrupted.signal
        }, argv as Arguments)
      } catch (error) {
        bar.clear()
        throw toCommandError(error)
      } finally {
        process.off('SIGINT', interrupt)
      }
    }
  }
}

/**
 * The data folder. Root goes on as its owner where that user is at home in the models folders as well; where it is not,
 * root may have to write there, and leaves the data folder of the service alone for one of its own.
 * @param changed folders in which files are made or deleted.
 */
function workFolder (options: Options, changed: string[]): string {
  const { data } = dataFolders(options)
  if (haveOneOwner([data, ...changed])) actAsOwnerOf(data)
  const { data: usual } = dataFolders({ dataDir: undefined, authDataDir: undefined })
  const last = join(userInfo().homedir, '.stable-diffusion-rest') // where sudo leaves HOME that of its caller
  return [data, usual].find(folder => !isForeignToRoot(folder)) ?? last
}

/** An error of the API or of files answers the command and is not a defect. */
function toCommandError (error: unknown): unknown {
  const { name, code, message } = error as NodeJS.ErrnoException
  if (isStorageFull(error)) return new CommandError(exitCodes.storage, `The disk is full: ${message}`, { cause: error })
  if (code === 'SDR_STORAGE_FULL') return new CommandError(exitCodes.storage, message, { cause: error })
  if (code === 'SDR_INVALID_REQUEST') return new CommandError(exitCodes.usage, message, { cause: error })
  if (code?.startsWith('SDR_') === true || ['NetworkError', 'EngineError', 'ModelFileError'].includes(name)) {
    return new CommandError(exitCodes.failure, message, { cause: error })
  }
  if (['EACCES', 'EPERM', 'EROFS'].includes(code ?? '')) {
    return new CommandError(exitCodes.storage, message, { cause: error })
  }
  return error
}

/** Shows how many mebibytes of a file are done. */
export function showBytes (
  bar: ProgressBar, what: string
): (done: { bytes: number, total: number | undefined }) => void {
  return ({ bytes, total }) => {
    const of = total === undefined ? '' : ` of ${mebibytes(total)}`
    bar.update(`${what} ${mebibytes(bytes)}${of} MiB`, total === undefined || total === 0 ? 0 : bytes / total)
  }
}
