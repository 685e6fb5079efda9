import { access, chmod, constants, lchown, mkdir, readdir, realpath, stat } from 'node:fs/promises'
import { dirname, join, sep } from 'node:path'
import { apiError } from '../../../errors.ts'
import { badValue } from '../../http/request-errors.ts'
import { checkFileName, checkFolderName } from './file-name.ts'
import { leaveToOwner } from '../../storage/ownership.ts'
import { type ModelRoot, isInside } from '../roots.ts'
import { type ModelType, folderOfType, typeOfFolder } from '../types.ts'

interface TargetRequest {
  /** Chooses the folder: of `--lora-dir` and the like, else of this type in the first `--models-dir`. */
  type?: ModelType
  /** Below that, with `/` between the names. */
  folder?: string
  name: string
}

/**
 * The path of a new model. Makes nothing.
 * @throws {ApiError} SDR_INVALID_REQUEST; SDR_CONFLICT when no models folder fits.
 */
export async function chooseTarget (
  { type, folder, name }: TargetRequest, roots: readonly ModelRoot[]
): Promise<string> {
  const wrong = checkFileName(name)
  if (wrong !== undefined) throw badValue('name', wrong, name)
  const wrongFolder = folder === undefined ? undefined : checkFolderName(folder)
  if (wrongFolder !== undefined) throw badValue('folder', wrongFolder, folder)
  const base = await baseFolder(type, roots)
  return join(base, ...folder?.split('/') ?? [], name)
}

async function baseFolder (type: ModelType | undefined, roots: readonly ModelRoot[]): Promise<string> {
  const typed = type === undefined ? undefined : roots.find(root => root.type === type)
  if (typed !== undefined) return typed.path
  const general = roots.find(root => root.type === undefined)
  if (general === undefined) {
    throw apiError('SDR_CONFLICT', `The server has no models folder for ${type === undefined
      ? 'files of any type; say the type'
      : `files of type ${type}`}, or give it a --models-dir.`)
  }
  if (type === undefined || type === 'unknown') return general.path
  const folders = (await readdir(general.path, { withFileTypes: true })).filter(entry => entry.isDirectory())
  const existing = folders.map(({ name }) => name).sort().find(name => typeOfFolder(name) === type)
  return join(general.path, existing ?? folderOfType(type))
}

/**
 * Makes the folder of a target if it is missing, and checks that no link leads it out of the models folders.
 * @returns the real path of the target.
 * @throws {ApiError} SDR_CONFLICT
 */
export async function openTarget (target: string, roots: readonly ModelRoot[]): Promise<string> {
  const realRoots = await Promise.all(roots.map(({ path }) => realpath(path).catch(() => null)))
  const folder = dirname(target)
  const existing = await nearestFolder(folder)
  const real = await realpath(existing)
  if (!isInside(real, realRoots)) {
    throw apiError('SDR_CONFLICT', 'A link leads that folder out of the models folders.')
  }
  const stats = await stat(real)
  let path = real
  for (const part of folder.slice(existing.length).split(sep).filter(part => part !== '')) {
    path = join(path, part)
    const made = path
    await mkdir(made)
    await chmod(made, stats.mode & 0o777) // users who share the models share the new folder
    await leaveToOwner((uid, gid) => lchown(made, uid, gid), stats)
  }
  return join(path, target.slice(folder.length + 1))
}

/**
 * Checks that the server may write into the folder of a target.
 * @throws {ApiError} SDR_CONFLICT
 */
export async function requireWritable (target: string): Promise<void> {
  const folder = await nearestFolder(dirname(target))
  await access(folder, constants.W_OK | constants.X_OK).catch(error => { throw notWritable(folder, error) })
}

/** The error for a failed change in a models folder. */
export function notWritable (folder: string, error: NodeJS.ErrnoException): Error {
  switch (error.code) {
    case 'EROFS':
      return apiError('SDR_CONFLICT',
        `The models folder ${folder} is mounted read-only, so nothing can be changed there.`, { cause: error })
    case 'EACCES':
    case 'EPERM':
      return apiError('SDR_CONFLICT',
        `The user that the server runs as may not change anything in the models folder ${folder}.`, { cause: error })
    default:
      return error
  }
}

async function nearestFolder (folder: string): Promise<string> {
  try {
    if ((await stat(folder)).isDirectory()) return folder
    throw apiError('SDR_CONFLICT', 'A file lies where a folder is needed.')
  } catch (error) {
    if (!['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    return await nearestFolder(dirname(folder))
  }
}
