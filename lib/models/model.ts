import { type ImageDefaults, type ImageLimits, architectureOf, defaultsOf } from './detect/architectures.ts'
import type { ModelFiles } from '../engine/engine.ts'
import type { Bundle } from './bundle.ts'
import type { Summary } from './detect/inspect.ts'
import type { ScannedFile } from './scan/walk.ts'
import { type ModelType, drawingTypes } from './types.ts'

/** A model as the server knows it. Only `describe` decides what of it leaves the server. */
export interface Model {
  /** `type/relative/path.safetensors` */
  id: string
  type: ModelType
  /** File name without its ending, or what the description of a bundle says. */
  name: string
  format: ScannedFile['format']
  /** Bytes, of all files together. */
  size: number
  /** Milliseconds since 1970. */
  modified: number
  architecture: string | null
  /** What the header says; absent for files that can't be read. */
  summary?: Summary
  /** Why the file will never be loaded. */
  blocked?: string
  /** Why the file can't be loaded as it is. */
  error?: string
  /** What a request that leaves these out gets. */
  defaults?: Partial<ImageDefaults>
  limits?: ImageLimits
  /** Known when it was asked for since the file changed last. */
  sha256?: string
  /** Real path. */
  path: string
  /** Where the link lies that led to it, when one did. */
  link?: string
  /** Real paths of a model of several files, by the engine's names. */
  components?: ModelFiles
}

/** A model as clients see it. */
interface ModelDescription {
  id: string
  type: ModelType
  name: string
  format: Model['format']
  size: number
  architecture: string | null
  variant: string | null
  quantization: string | null
  parameters: number | null
  prediction: string | null
  resolution: number | null
  modified_at: string
  /** Why it can't be used: refused for what it is, or damaged. */
  blocked: string | null
  error: string | null
  defaults: Partial<ImageDefaults> | null
  limits: ImageLimits | null
  sha256: string | null
  trigger_words: string[]
  metadata: Record<string, string>
  /** For administrators. */
  path?: string
}

/** The wire shape of a model; `admin` adds where its file lies. */
export function describe (model: Model, { admin = false }: { admin?: boolean } = {}): ModelDescription {
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

/** Makes the entry of a single file; its type is what the header proves, else what the folder says. */
export function modelOfFile (file: ScannedFile): FileModel {
  const { format, size, modified, path, link, relative, content, sha256 } = file
  const summary = content !== undefined && 'type' in content ? content : undefined
  const proven = summary === undefined || summary.type === 'unknown' ? undefined : summary.type
  const type = proven ?? file.folderType ?? 'unknown'
  const known = { name: nameOf(relative), format, size, modified, path, link, sha256 }
  if (summary === undefined) return { type, architecture: null, ...known, ...content }
  return { type, ...known, ...knowledgeOf(type, summary), error: objectionTo(relative, type, summary) }
}

/** Why a file with a good header can't be used all the same. */
function objectionTo (relative: string, type: ModelType, { architecture }: Summary): string | undefined {
  const split = /-0*(\d{1,5})-of-0*(\d{1,5})\.[^.]+$/.exec(relative)
  if (split !== null) {
    return `This is part ${split[1]} of ${split[2]} of a split model. Merge the parts, or download it in one file.`
  }
  const known = drawingTypes.includes(type) ? architectureOf(architecture) : undefined
  if (known?.video === true) return `${known.title} makes videos; this server makes images.`
}

/**
 * Makes the entry of a bundle. What it is, its main part says; `listed` finds the entry of each part by its real path,
 * so that nothing reaches the engine whose header was not read.
 */
export function modelOfBundle (
  file: ScannedFile, bundle: Bundle, listed: (path: string) => FileModel | undefined
): FileModel {
  for (const [part, path] of Object.entries(bundle.files)) {
    const entry = listed(path)
    if (entry === undefined) {
      return failedBundle(file, `Its ${part} is not among the listed models; it may lie in a hidden folder.`)
    }
    const problem = entry.blocked ?? entry.error
    if (problem !== undefined) return failedBundle(file, `Its ${part} can't be used: ${problem}`)
  }
  const { architecture, summary, limits, defaults } = listed((bundle.files.diffusion_model ?? bundle.files.model)!)!
  const wholeOnly = bundle.files.model === undefined ? objectionToParts(architecture) : undefined
  if (wholeOnly !== undefined) return failedBundle(file, `Its diffusion_model can't be used: ${wholeOnly}`)
  return {
    ...emptyBundle(file),
    ...(bundle.name === undefined ? {} : { name: bundle.name }),
    size: bundle.size,
    architecture,
    summary,
    limits,
    defaults: { ...defaults, ...bundle.defaults },
    components: bundle.files
  }
}

/** The entry of a bundle whose description is wrong. */
export function failedBundle (file: ScannedFile, error: string): FileModel {
  return { ...emptyBundle(file), error }
}

function emptyBundle ({ relative, size, modified, path, link }: ScannedFile): FileModel {
  return {
    type: 'checkpoint',
    name: nameOf(relative),
    format: 'bundle',
    size,
    modified,
    path,
    link,
    architecture: null
  }
}

type Knowledge = Pick<Model, 'architecture' | 'summary' | 'defaults' | 'limits'>

function knowledgeOf (type: ModelType, summary: Summary): Knowledge {
  const { architecture, variant } = summary
  const known = drawingTypes.includes(type) ? architectureOf(architecture) : undefined
  if (known === undefined) return { architecture, summary }
  const defaults = { ...defaultsOf(architecture, variant)!, ...ownSize(summary, known.limits) }
  return { architecture, summary, defaults, limits: known.limits }
}

/** The size a model was trained in, if its file tells and the engine draws it: 512 of some SD 2, 768 of some SD 1. */
function ownSize (
  { resolution: side }: Summary, { min_side: least, max_side: most, multiple_of: multiple }: ImageLimits
) {
  const isDrawn = side !== undefined && side >= least && side <= most && side % multiple === 0
  return isDrawn ? { width: side, height: side } : {}
}

function nameOf (relative: string): string {
  return relative.slice(relative.lastIndexOf('/') + 1).replace(/(?:\.model\.(?:ya?ml|json)|\.[^.]+)$/i, '')
}

/** Why a diffusion model can't be put together with its other parts; undefined when it can. */
export function objectionToParts (architecture: string | null): string | undefined {
  const known = architectureOf(architecture)
  if (known === undefined || known.parts.length > 0) return undefined
  return `it holds the UNet alone, and the engine knows ${known.title} by its whole checkpoints only.`
}

/** Why a model can't be used as it is; undefined when it can. */
export function obstacleTo ({ blocked, error, type, components, architecture }: Model): string | undefined {
  const problem = blocked ?? error
  if (problem !== undefined || type !== 'diffusion' || components !== undefined) return problem
  const wholeOnly = objectionToParts(architecture)
  if (wholeOnly !== undefined) return wholeOnly
  const needed = architectureOf(architecture)?.parts.join(', ') ?? 'text encoders and VAE'
  return `it holds the diffusion model alone and needs ${needed}. ` +
    'Name these as `components` of the request, or put a file NAME.model.yaml beside it that names all of them.'
}
