import { accessSync, constants, existsSync, lstatSync, mkdirSync, readdirSync, readlinkSync, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { CommandError, exitCodes } from '../../errors.ts'
import type { Options } from './options.ts'
import { ownershipHint } from '../storage/ownership.ts'
import { systemReason } from '../util/text.ts'

export interface DataFolders {
  /** Queue and images. */
  data: string
  /** Accounts and secrets. */
  auth: string
}

/** Where the data lives: the options, else the XDG data directory (specification 0.8, which ignores relative ones). */
export function dataFolders ({ dataDir, authDataDir }: Pick<Options, 'dataDir' | 'authDataDir'>): DataFolders {
  const xdg = process.env.XDG_DATA_HOME
  const data = resolve(dataDir ?? join(
    xdg !== undefined && isAbsolute(xdg) ? xdg : join(homedir(), '.local', 'share'), 'stable-diffusion-rest'))
  return { data, auth: resolve(authDataDir ?? join(data, 'auth')) }
}

/**
 * Makes the folder with mode 0700 when it is missing and checks that it can be written.
 * @param made collects the folders that were made.
 * @throws {CommandError} (storage)
 */
export function prepareFolder (folder: string, option: string, made: string[] = []): void {
  try {
    makeFolders(folder, made)
    accessSync(folder, constants.R_OK | constants.W_OK | constants.X_OK)
  } catch (error) {
    throw new CommandError(exitCodes.storage,
      `The folder ${folder} is not writable: ${(error as Error).message}. Choose another one with ${option}, ` +
      `or give this user the right to write there.${ownershipHint(folder)}`)
  }
}

/**
 * Makes the folder, and those above it, with mode 0700 where they are missing. mkdir of Node.js with `recursive` would
 * try for ever in a folder that takes no folders, such as /proc.
 * @param folder absolute.
 */
export function makeFolders (folder: string, made: string[] = []): void {
  const parent = dirname(folder)
  if (parent !== folder && !existsSync(parent)) makeFolders(parent, made)
  try {
    mkdirSync(folder, { mode: 0o700 })
    made.push(folder)
  } catch (error) {
    if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() === true) return
    const target = danglingTarget(folder)
    throw target === undefined ? error : new Error(`${folder} is a symbolic link to ${target}, which is missing`)
  }
}

/** The missing target of a symbolic link; undefined for anything else. */
export function danglingTarget (path: string): string | undefined {
  const isDangling = lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true && !existsSync(path)
  return isDangling ? readlinkSync(path) : undefined
}

/** Cache of model headers, below the data folder. */
export function modelCacheFile (data: string): string {
  return join(data, 'models-cache.json')
}

/** Notes about unfinished model files, below the data folder. */
export function stagingFolder (data: string): string {
  return join(data, 'staging')
}

interface ModelRoot {
  path: string
  /** Set for folders of one type; elsewhere folder name and header decide. */
  type?: typeof typedRoots[keyof typeof typedRoots]
}

const typedRoots = {
  checkpointsDir: 'checkpoint',
  diffusionDir: 'diffusion',
  loraDir: 'lora',
  vaeDir: 'vae',
  controlnetDir: 'controlnet',
  upscalerDir: 'upscaler',
  embeddingsDir: 'embedding',
  textEncodersDir: 'text_encoder'
} as const satisfies Partial<Record<keyof Options, string>>

/** The options that name folders with models. */
export const modelFolderOptions: ReadonlyArray<keyof Options> =
  ['modelsDir', ...Object.keys(typedRoots) as Array<keyof typeof typedRoots>]

/**
 * The model folders of the options.
 * @throws {CommandError} (storage) when one is missing or can't be read.
 */
export function modelRoots (options: Options): ModelRoot[] {
  const typed = Object.entries(typedRoots).flatMap(([option, type]) =>
    options[option as keyof typeof typedRoots].map(path => ({ path: resolve(path), type })))
  const roots = [...options.modelsDir.map(path => ({ path: resolve(path) })), ...typed]
  for (const { path } of roots) checkReadable(path)
  return roots
}

function checkReadable (folder: string): void {
  try {
    if (!statSync(folder).isDirectory()) throw new Error('it is not a folder')
    readdirSync(folder)
  } catch (error) {
    throw new CommandError(exitCodes.storage, `The models folder ${folder} cannot be read: ${systemReason(error)}`)
  }
}
