import type { Stats } from 'node:fs'
import { rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { apiError } from '../../../errors.ts'
import type { Engine, EngineInfo, RunOptions } from '../../engine/engine.ts'
import { badValue, requireFeature } from '../../http/request-errors.ts'
import { type ModelCatalog, requireOneFile } from '../catalog.ts'
import { checkFileName } from './file-name.ts'
import { type FreeSpace, requireSpace } from '../../storage/free-space.ts'
import { ModelFileError } from '../headers/header.ts'
import type { Model } from '../model.ts'
import { readModelHeader } from '../headers/read-header.ts'
import { type StagingArea, exists, finishedBefore, nameTaken, place, stagingName } from './staging.ts'
import { requireWritable } from './target.ts'

/** A request; also the parameters of its job. */
export interface ConvertRequest {
  /** Id or name. */
  model: string
  /** A weight type of the engine: `q8_0`, `f16`… */
  weight_type: string
  /** Ends in .gguf. */
  name?: string
  overwrite?: boolean
}

/** Bits of one weight; the blocks of the quantized types carry scales. */
const bits: Record<string, number> = {
  f32: 32,
  f16: 16,
  bf16: 16,
  q8_0: 8.5,
  q6_k: 6.57,
  q5_0: 5.5,
  q5_1: 6,
  q5_k: 5.5,
  q4_0: 4.5,
  q4_1: 5,
  q4_k: 4.5,
  q3_k: 3.44,
  q2_k: 2.63
}

/**
 * Checks a request.
 * @returns the model and the path of the new file, in the same folder.
 * @throws {ApiError} SDR_UNSUPPORTED_FEATURE, SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL,
 *   SDR_CONFLICT
 */
export async function checkConvert (
  { model: wanted, weight_type: type, name, overwrite = false }: ConvertRequest,
  catalog: ModelCatalog,
  engine: EngineInfo
): Promise<{ model: Model, target: string }> {
  requireFeature('convert', engine)
  if (!engine.weight_types.includes(type)) {
    throw badValue('weight_type', `one of ${engine.weight_types.join(', ')}`, type)
  }
  const model = catalog.find(wanted)
  const reason = model.blocked ?? model.error
  if (reason !== undefined) throw apiError('SDR_UNSUPPORTED_MODEL', `${model.id} can't be converted: ${reason}`)
  requireOneFile(model)
  const file = name ?? `${model.name}-${type}.gguf`
  const wrong = file.toLowerCase().endsWith('.gguf') ? checkFileName(file) : 'a name that ends in .gguf'
  if (wrong !== undefined) throw badValue('name', wrong, file)
  const target = join(dirname(model.link ?? model.path), file)
  if (target === model.path) throw badValue('name', 'another name than that of the model itself', file)
  await requireWritable(target)
  if (!overwrite && await exists(target)) throw nameTaken(target)
  return { model, target }
}

interface ConvertParts {
  catalog: ModelCatalog
  /** Idle, and used by this conversion only. */
  engine: Engine
  staging: StagingArea
  freeSpace?: FreeSpace
}

/**
 * Writes a model with weights of another type. Deletes the incomplete file on failure.
 * @throws what `checkConvert` throws; {EngineError}; API error SDR_STORAGE_FULL.
 */
export async function convertModel (
  request: ConvertRequest, { catalog, engine, staging, freeSpace }: ConvertParts, options: RunOptions = {}
): Promise<{ path: string, size: number }> {
  const { model, target } = await checkConvert({ ...request, overwrite: true }, catalog, engine.info!)
  const key = staging.key('convert', model.path, request.weight_type, target)
  return await staging.alone(key, async () => {
    if (request.overwrite !== true && await exists(target)) {
      const note = await staging.read(key)
      // It may be this conversion's, with the server killed before the end of the job was recorded.
      const done = note && await finishedBefore(note)
      if (done === undefined) throw nameTaken(target)
      return done
    }
    // The engine takes the format from the ending.
    const file = join(dirname(target), `${stagingName(key)}.gguf`)
    try {
      await staging.write(key, { staging: file })
      await rm(file, { force: true })
      await requireSpace(dirname(target), expectedBytes(model, request.weight_type), freeSpace)
      await engine.run('convert', {
        input: await catalog.path(model),
        output: file,
        weight_type: request.weight_type
      }, options)
      const { size, mtimeMs: modified, ino: inode } = await checkResult(file)
      const done = { path: target, size, modified, inode }
      await staging.write(key, { staging: file, done })
      await place(file, target, request)
      return done
    } catch (error) {
      await staging.discard(key)
      throw error
    }
  })
}

async function checkResult (file: string): Promise<Stats> {
  try {
    await readModelHeader(file)
    return await stat(file)
  } catch (error) {
    if (!(error instanceof ModelFileError)) throw error
    throw apiError('SDR_UNSUPPORTED_MODEL',
      `What the engine wrote is no model that could be used: ${error.message}`, { cause: error })
  }
}

function expectedBytes ({ size, summary }: Model, type: string): number {
  const width = bits[type.toLowerCase()]
  return width === undefined || summary === undefined ? size : Math.ceil(summary.parameters * width / 8)
}
