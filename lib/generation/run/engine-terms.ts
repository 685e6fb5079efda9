import { availableParallelism } from 'node:os'
import type { Engine, ImageParameters, LoadOptions, ModelFiles } from '../../engine/engine.ts'
import type { Attachments, Job } from '../../jobs/job.ts'
import type { ResolvedJob } from './drawing.ts'
import type { ModelCatalog } from '../../models/catalog.ts'
import type { Components } from '../../models/components.ts'
import type { Model } from '../../models/model.ts'
import type { ModelType } from '../../models/types.ts'
import type { Options } from '../../options/options.ts'
import { composeModel } from '../components.ts'
import { namedOrFirst } from '../model.ts'
import type { LoraRequest } from '../lora-tags.ts'
import { hiresMethods } from '../request-schema.ts'
import type { HiresRequest } from '../request.ts'

/** Embeddings that an engine gets, the first in the order of their ids. */
const mostEmbeddings = 500

/** The options of the operator for loading any model. */
type LoadChoices = Pick<Options, 'threads' | 'device' | 'flashAttention' | 'offloadToCpu' | 'vaeOnCpu' | 'clipOnCpu'>

interface EngineTermsParts {
  catalog: ModelCatalog
  /** Idle: it makes the edge drawing of a control image. */
  engine: Engine
  options: LoadChoices
}

/** Parameters of a job that an engine takes in another form, or not at all. */
interface NamedParameters {
  model: string
  components?: Components<string>
  control_net?: string
  loras?: LoraRequest[]
  hires?: HiresRequest
  ip_adapter?: string
  photo_maker?: string
  photo_maker_style_strength?: number
  previews?: object
  canny?: { enabled?: boolean }
}

/**
 * Turns a job into the terms of the engine: files instead of ids, with the options of the machine.
 * @throws {ApiError} SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL for a model that went away after the job was accepted.
 * @throws {EngineError} when the engine fails to make the edge drawing.
 */
export async function toEngineTerms (
  job: Job, attachments: Attachments, parts: EngineTermsParts
): Promise<ResolvedJob> {
  const translate = job.type === 'upscale' ? toUpscaling : toDrawing
  return await translate(job, attachments, parts)
}

async function toUpscaling (
  job: Job, attachments: Attachments, { catalog, options }: EngineTermsParts
): Promise<ResolvedJob> {
  const files = await catalog.files(catalog.resolve(job.model, { types: ['upscaler'] }))
  const repeats = job.parameters.repeats as number
  return { files, options: machineOptions(options), parameters: { repeats }, attachments }
}

/** The files and options of a drawing model for the engine, the same for POST /api/models/load as for a job. */
export async function toLoad (
  model: Model, { catalog, engine, options }: EngineTermsParts
): Promise<{ files: ModelFiles, options: LoadOptions }> {
  return {
    files: await catalog.files(model),
    options: { ...machineOptions(options), ...memoryOptions(options), ...await embeddings(catalog, engine) }
  }
}

async function toDrawing (job: Job, attachments: Attachments, parts: EngineTermsParts): Promise<ResolvedJob> {
  const { catalog, engine } = parts
  const {
    model: id, components, loras = [], hires, canny, control_net, ip_adapter, photo_maker,
    photo_maker_style_strength: style, previews, ...parameters
  } = job.parameters as unknown as NamedParameters
  const pathOf = async (id: string, type: ModelType) => await catalog.path(catalog.resolve(id, { types: [type] }))
  const model = components === undefined ? catalog.resolve(id) : composeModel({ model: id, components }, catalog).model
  const { files, options } = await toLoad(model, parts)
  return {
    files: { ...files, ...await filesBeside({ control_net, ip_adapter, photo_maker }, files, catalog) },
    options,
    parameters: {
      ...parameters as unknown as ImageParameters,
      loras: await Promise.all(loras.map(async ({ name, weight }) => ({ path: await pathOf(name, 'lora'), weight }))),
      ...(style !== undefined && { photo_maker: { style_strength: style } }),
      ...(previews && { preview: previews }),
      ...(hires && { hires: await hiresTerms(hires, id => pathOf(id, 'upscaler')) })
    },
    attachments: canny === undefined ? attachments : await withEdges(attachments, canny, engine),
    hashes: hashesOf([id, ...loras.map(({ name }) => name)], catalog)
  }
}

function hashesOf (ids: readonly string[], catalog: ModelCatalog): Record<string, string> {
  const known = ids.map(id => [id, catalog.get(id)?.sha256] as const)
  return Object.fromEntries(known.filter((entry): entry is [string, string] => entry[1] !== undefined))
}

/** Models that a job names beside its own. */
const typesBeside = { control_net: 'controlnet', ip_adapter: 'ip_adapter', photo_maker: 'photo_maker' } as const
type SlotBeside = keyof typeof typesBeside

async function filesBeside (
  ids: Partial<Record<SlotBeside, string>>, own: ModelFiles, catalog: ModelCatalog
): Promise<ModelFiles> {
  const files: ModelFiles = {}
  for (const [slot, type] of Object.entries(typesBeside) as Array<[SlotBeside, ModelType]>) {
    if (ids[slot] !== undefined) files[slot] = await catalog.path(catalog.resolve(ids[slot], { types: [type] }))
  }
  // An IP-Adapter sees through a vision encoder, which a bundle may bring.
  if (ids.ip_adapter !== undefined && own.clip_vision === undefined) {
    files.clip_vision = await catalog.path(namedOrFirst('ip_adapter_image', undefined, 'clip_vision', catalog))
  }
  return files
}

async function hiresTerms (
  { upscaler, ...hires }: HiresRequest, pathOf: (id: string) => Promise<string>
): Promise<object> {
  if (upscaler === undefined || hiresMethods.includes(upscaler)) return { ...hires, upscaler }
  return { ...hires, upscaler: 'Model', model_path: await pathOf(upscaler) }
}

/** All embeddings, whatever the prompt: another set makes the engine load its model again. */
async function embeddings (catalog: ModelCatalog, engine: Engine): Promise<LoadOptions> {
  if (engine.info?.capabilities.includes('embeddings') !== true) return {}
  const { models } = catalog.list({ type: 'embedding', limit: mostEmbeddings })
  const usable = models.filter(({ blocked, error }) => blocked === undefined && error === undefined)
  return {
    embeddings: await Promise.all(usable.map(async model => ({ name: model.name, path: await catalog.path(model) })))
  }
}

/** The attachments with the edges of the control image in its place. */
async function withEdges (
  attachments: Attachments, { enabled: _, ...settings }: { enabled?: boolean }, engine: Engine
): Promise<Attachments> {
  let edges: Uint8Array | undefined
  await engine.run('canny', settings, {
    attachments: { control_image: attachments.control_image! },
    image: ({ png }) => { edges = png }
  })
  return { ...attachments, control_image: edges! }
}

/**
 * Engines take all of up to four processors, and half of more. Their threads wait for each other in busy loops: beside
 * a busy one, two threads on two processors draw 40 times slower than one.
 */
function defaultThreads (): number | undefined {
  const processors = availableParallelism()
  return processors > 4 ? undefined : Math.max(1, processors - 1)
}

function machineOptions ({ threads, device }: LoadChoices): LoadOptions {
  const chosen = threads > 0 ? threads : defaultThreads()
  return { ...(chosen !== undefined && { threads: chosen }), ...(device !== 'auto' && { device }) }
}

/** An upscaler has no such parts. */
function memoryOptions ({ flashAttention, offloadToCpu, vaeOnCpu, clipOnCpu }: LoadChoices): LoadOptions {
  return {
    ...(flashAttention && { flash_attention: true }),
    ...(offloadToCpu && { offload_to_cpu: true }),
    ...(vaeOnCpu && { vae_on_cpu: true }),
    ...(clipOnCpu && { clip_on_cpu: true })
  }
}
