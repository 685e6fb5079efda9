import { realpath, stat } from 'node:fs/promises'
import { dirname, isAbsolute, resolve } from 'node:path'
import { type Static, Type, Validator } from '../http/type.ts'
import { quoted } from '../util/text.ts'
import { yaml } from '../util/yaml.ts'
import type { ModelFiles } from '../engine/engine.ts'
import type { ImageDefaults } from './detect/architectures.ts'
import { ModelFileError } from './headers/header.ts'
import { formatOfName } from './headers/read-header.ts'
import { isInside } from './roots.ts'
import { withFile } from './headers/source.ts'

/** Files that a `*.model.yaml` can name, as the engine calls them. */
const componentFiles = [
  'model', 'diffusion_model', 'high_noise_diffusion_model', 'uncond_diffusion_model',
  'clip_l', 'clip_g', 'clip_vision', 't5xxl', 'llm', 'vae', 'taesd', 'control_net'
] as const satisfies ReadonlyArray<keyof ModelFiles>
export type ComponentFile = typeof componentFiles[number]

/** The names in requests, accepted here too. */
const shortNames: Partial<Record<ComponentFile, 'diffusion' | 'uncond_diffusion'>> = {
  diffusion_model: 'diffusion', uncond_diffusion_model: 'uncond_diffusion'
}

/** A model of several files, from its description. */
export interface Bundle {
  name?: string
  defaults: Partial<ImageDefaults>
  /** Real paths, each inside the roots. */
  files: Partial<Record<ComponentFile, string>>
  /** Bytes of all files together. */
  size: number
}

const maximumSize = 64 * 1024

const Path = Type.Optional(Type.String({ minLength: 1, maxLength: 1024 }))
const BundleFile = Type.Object({
  name: Type.Optional(Type.String({ minLength: 1, maxLength: 200 })),
  ...Object.fromEntries(componentFiles.map(name => [name, Path])) as Record<ComponentFile, typeof Path>,
  diffusion: Path,
  uncond_diffusion: Path,
  defaults: Type.Optional(Type.Object({
    width: Type.Optional(Type.Integer({ minimum: 8, maximum: 16_384 })),
    height: Type.Optional(Type.Integer({ minimum: 8, maximum: 16_384 })),
    steps: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
    cfg_scale: Type.Optional(Type.Number({ minimum: 0, maximum: 100 })),
    guidance: Type.Optional(Type.Number({ minimum: 0, maximum: 100 })),
    sampler: Type.Optional(Type.String({ maxLength: 64 })),
    scheduler: Type.Optional(Type.String({ maxLength: 64 }))
  }, { additionalProperties: false }))
}, { additionalProperties: false })
const validator = new Validator(BundleFile)

/**
 * Reads the description of a model of several files.
 * @param file real path of the description.
 * @param roots real paths of the models folders: a file outside them is an error.
 * @throws {ModelFileError} saying what to change in the description.
 */
export async function readBundle (file: string, roots: ReadonlyArray<string | null>): Promise<Bundle> {
  const content = parseBundle(await readText(file))
  const bundle: Bundle = { defaults: content.defaults ?? {}, files: {}, size: 0 }
  if (content.name !== undefined) bundle.name = content.name
  for (const name of componentFiles) {
    const shortName = shortNames[name]
    const byShortName = shortName && content[shortName]
    if (content[name] !== undefined && byShortName !== undefined) {
      throw new ModelFileError(`The description names both ${shortName} and ${name}, which are the same.`)
    }
    const relative = content[name] ?? byShortName
    if (relative === undefined) continue
    const { path, size } = await findComponent(name, relative, dirname(file), roots)
    bundle.files[name] = path
    bundle.size += size
  }
  if (bundle.files.model === undefined && bundle.files.diffusion_model === undefined) {
    throw new ModelFileError('The description names neither a diffusion_model nor a model.')
  }
  return bundle
}

async function readText (file: string): Promise<string> {
  return await withFile(file, async source => {
    if (source.size > maximumSize) {
      throw new ModelFileError(`The description has ${source.size} bytes; at most ${maximumSize} are read.`)
    }
    return (await source.read(0, source.size)).toString('utf8')
  })
}

function parseBundle (text: string): Static<typeof BundleFile> {
  let content: unknown
  try {
    // JSON is YAML too. No aliases: a few lines of them can expand to gigabytes.
    content = yaml().parse(text, { maxAliasCount: 0, logLevel: 'error' })
  } catch (cause) {
    const [reason = ''] = (cause as Error).message.split('\n')
    throw new ModelFileError(`The description is not valid YAML: ${reason.slice(0, 200)}`, { cause })
  }
  if (validator.check(content)) return content
  const { errors } = validator
  const unknown = errors.filter(({ keyword }) => keyword === 'additionalProperties')
  if (unknown.length > 0) {
    const fields = unknown.map(({ params }) => quoted(params.additionalProperty as string)).join(', ')
    const known = ['name', 'defaults', ...componentFiles].join(', ')
    throw new ModelFileError(`The description has the unknown field ${fields}. Known are ${known}.`)
  }
  const { instancePath = '', message = 'is not valid' } = errors[0] ?? {}
  const field = instancePath === '' ? 'it' : quoted(instancePath.slice(1))
  throw new ModelFileError(`The description is not valid: ${field} ${message}.`)
}

async function findComponent (
  name: ComponentFile, relative: string, folder: string, roots: ReadonlyArray<string | null>
): Promise<{ path: string, size: number }> {
  const what = `The ${name} ${quoted(relative)}`
  if (isAbsolute(relative) || relative.includes('\0')) {
    throw new ModelFileError(`${what} must be a path relative to the description.`)
  }
  const wanted = resolve(folder, relative)
  // Before the file system is asked: nothing may show whether a file exists outside the roots.
  if (!isInside(wanted, roots)) throw new ModelFileError(`${what} lies outside the models folders.`)
  const path = await realpath(wanted).catch((cause: unknown) => {
    throw new ModelFileError(`${what} can't be found (${(cause as NodeJS.ErrnoException).code}).`, { cause })
  })
  if (!isInside(path, roots)) throw new ModelFileError(`${what} lies outside the models folders.`)
  const stats = await stat(path)
  if (!stats.isFile()) throw new ModelFileError(`${what} is not a file.`)
  const format = formatOfName(relative)
  if (format === undefined) throw new ModelFileError(`${what} is neither a safetensors nor a GGUF file.`)
  if (format === 'pickle') throw new ModelFileError(`${what} is a pickle file, which is never loaded.`)
  return { path, size: stats.size }
}
