import { type ImageDefaults, type ImageLimits, architectureOf, defaultsOf } from './detect/architectures.ts'
import type { ModelFiles } from '../engine/engine.ts'
import type { Bundle } from './bundle.ts'
import type { Summary } from './detect/inspect.ts'
import { mismatchReason } from './parts.ts'
import type { ScannedFile } from './scan/walk.ts'
import { type ModelType, drawingTypes } from './types.ts'

/** A model as the server knows it. `describeModel` decides what leaves the server. */
export interface Model {
  /** `type/relative/path.safetensors` */
  id: string
  type: ModelType
  /** File name without its ending, or the name in the description of a bundle. */
  name: string
  format: ScannedFile['format']
  /** Bytes, of all files together. */
  size: number
  /** Milliseconds since 1970. */
  modified: number
  architecture: string | null
  /** Absent for files that can't be read. */
  summary?: Summary
  /** Why the file will never be loaded. */
  blocked?: string
  /** Why the file can't be loaded as it is. */
  error?: string
  /** For parameters that a request leaves out. */
  defaults?: Partial<ImageDefaults>
  limits?: ImageLimits
  /** Known once it was asked for, until the file changes. */
  sha256?: string
  /** Real path. */
  path: string
  /** Path of the link that led to it, if one did. */
  link?: string
  /** Real paths of a model of several files, by the engine's names. */
  components?: ModelFiles
}

/** A model as clients see it; `admin` adds where its file lies. */
export function describeModel (model: Model, { admin = false }: { admin?: boolean } = {}) {
  const { id, type, name, format, size, architecture, summary } = model
  return {
    id,
    type,
    name,
    format,
    size,
    architecture,
    variant: summary?.variant ?? null,
    quantization: summary?.quantization ?? null,
    parameters: summary?.parameters ?? null,
    prediction: summary?.prediction ?? null,
    resolution: summary?.resolution ?? null,
    modified_at: new Date(model.modified).toISOString(),
    blocked: model.blocked ?? null,
    error: model.error ?? null,
    defaults: model.defaults ?? null,
    limits: model.limits ?? null,
    sha256: model.sha256 ?? null,
    trigger_words: summary?.trigger_words ?? [],
    metadata: summary?.metadata ?? {},
    ...(admin ? { path: model.path } : {})
  }
}

/** A model before its id is chosen. */
export type FileModel = Omit<Model, 'id'>

/** The model of a single file. Its type comes from the header, else from the folder. */
export function modelOfFile (file: ScannedFile): FileModel {
  const { format, size, modified, path, link, relative, content, sha256 } = file
  const summary = content !== undefined && 'type' in content ? content : undefined
  const proven = summary === undefined || summary.type === 'unknown' ? undefined : summary.type
  const type = proven ?? file.folderType ?? 'unknown'
  const known = { name: nameOf(relative), format, size, modified, path, link, sha256 }
  if (summary === undefined) {
    const unfinished = unfinishedReason(file)
    return { type, architecture: null, ...known, ...content, ...unfinished !== undefined && { error: unfinished } }
  }
  return {
    type,
    ...known,
    size: summary.size ?? size,
    ...knowledgeOf(type, summary),
    error: unfinishedReason(file) ?? unsupportedReason(relative, type, summary)
  }
}

function unfinishedReason ({ unfinished }: ScannedFile): string | undefined {
  if (unfinished !== undefined) return `It is still being downloaded: ${unfinished} lies beside it.`
}

/** Why a file with a valid header can't be used. */
function unsupportedReason (
  relative: string, type: ModelType, { architecture, unsupported }: Summary
): string | undefined {
  if (unsupported !== undefined) return unsupported
  if (type === 'upscaler' && architecture === null) return 'The engine loads upscalers of the kind ESRGAN only.'
  const split = /-0*(\d{1,5})-of-0*(\d{1,5})\.[^.]+$/.exec(relative)
  if (split !== null && Number(split[2]) > 1) {
    return `This is part ${split[1]} of ${split[2]} of a split model, which is used by its index, ` +
      'NAME.safetensors.index.json beside it. Without one, merge the parts, or download it in one file.'
  }
  const known = drawingTypes.includes(type) ? architectureOf(architecture) : undefined
  if (known?.video === true) return `${known.title} makes videos; this server makes images.`
}

/**
 * The model of a bundle, which is what its diffusion model or checkpoint is. `listed` finds each component by its real
 * path, so that no file reaches the engine whose header was not read.
 */
export function modelOfBundle (
  file: ScannedFile, bundle: Bundle, listed: (path: string) => FileModel | undefined
): FileModel {
  for (const [name, path] of Object.entries(bundle.files)) {
    const component = listed(path)
    if (component === undefined) {
      return failedBundle(file, `Its ${name} is not among the listed models; it may lie in a hidden folder.`)
    }
    const reason = component.blocked ?? component.error
    if (reason !== undefined) return failedBundle(file, `Its ${name} can't be used: ${reason}`)
  }
  const { architecture, summary, limits, defaults } = listed((bundle.files.diffusion_model ?? bundle.files.model)!)!
  for (const [name, path] of Object.entries(bundle.files)) {
    const mismatch = mismatchReason(name, listed(path)!, architecture)
    if (mismatch !== undefined) return failedBundle(file, `Its ${name} can't be used: it ${mismatch}`)
  }
  const reason = bundle.files.model === undefined ? wholeOnlyReason(architecture) : undefined
  if (reason !== undefined) return failedBundle(file, `Its diffusion_model can't be used: ${reason}`)
  if (summary?.lacks_vae === true && bundle.files.vae === undefined && bundle.files.taesd === undefined) {
    return failedBundle(file, `Its model can't be used: ${noVaeReason}`)
  }
  return {
    ...emptyBundle(file),
    ...bundle.name !== undefined && { name: bundle.name },
    size: bundle.size,
    architecture,
    summary,
    limits,
    defaults: { ...defaults, ...bundle.defaults },
    components: bundle.files
  }
}

/** The model of a bundle whose description is wrong. */
export function failedBundle (file: ScannedFile, error: string): FileModel {
  return { ...emptyBundle(file), error }
}

function emptyBundle ({ relative, size, modified, path, link }: ScannedFile): FileModel {
  const name = nameOf(relative)
  return { type: 'checkpoint', name, format: 'bundle', size, modified, path, link, architecture: null }
}

function knowledgeOf (
  type: ModelType, summary: Summary
): Pick<Model, 'architecture' | 'summary' | 'defaults' | 'limits'> {
  const { architecture, variant } = summary
  const known = drawingTypes.includes(type) ? architectureOf(architecture) : undefined
  if (known === undefined) return { architecture, summary }
  const defaults = { ...defaultsOf(architecture, variant)!, ...ownSize(summary, known.limits) }
  return { architecture, summary, defaults, limits: known.limits }
}

/** The size that the model was trained in, if its file names one that the engine draws: 512 of some SD 2. */
function ownSize (
  { resolution: side }: Summary, { min_side: least, max_side: most, multiple_of: multiple }: ImageLimits
) {
  const isDrawn = side !== undefined && side >= least && side <= most && side % multiple === 0
  return isDrawn ? { width: side, height: side } : {}
}

function nameOf (relative: string): string {
  return withoutEnding(relative.slice(relative.lastIndexOf('/') + 1))
}

/** A path of a model without the ending of its file. */
export function withoutEnding (path: string): string {
  return path.replace(/(?:\.model\.(?:ya?ml|json)|\.safetensors\.index\.json|\.[^./]+)$/i, '')
}

/** Why a diffusion model of this architecture can't be loaded with separate components; undefined when it can. */
export function wholeOnlyReason (architecture: string | null): string | undefined {
  const known = architectureOf(architecture)
  if (known === undefined || known.components.length > 0) return undefined
  return `it holds no text encoder, and the engine knows ${known.title} by its whole checkpoints only.`
}

export const noVaeReason =
  'it holds no VAE. Name one as `components.vae` of the request, or in a NAME.model.yaml beside it.'

/** Why a model can't be used as it is; undefined when it can. */
export function unusableReason (
  { blocked, error, type, components, architecture, summary }: Model
): string | undefined {
  if (type !== 'diffusion' || components !== undefined) {
    return blocked ?? error ?? (components === undefined && summary?.lacks_vae === true ? noVaeReason : undefined)
  }
  const reason = blocked ?? error ?? wholeOnlyReason(architecture)
  if (reason !== undefined) return reason
  const needed = architectureOf(architecture)?.components.join(', ') ?? 'text encoders and VAE'
  return `it holds the diffusion model alone and needs ${needed}. ` +
    'Name these as `components` of the request, or put a file NAME.model.yaml beside it that names all of them.'
}
