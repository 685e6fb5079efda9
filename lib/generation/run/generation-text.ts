import type { EngineImage } from '../../engine/engine.ts'
import { addText } from '../../media/png.ts'
import type { Job } from '../../jobs/job.ts'

/** Parameter → label of the line of settings: those that tools of the A1111 family, Forge included, read. */
const labels: ReadonlyArray<[parameter: string, label: string]> = [
  ['steps', 'Steps'],
  ['sampler', 'Sampler'],
  ['scheduler', 'Schedule type'],
  ['cfg_scale', 'CFG scale'],
  ['guidance', 'Distilled CFG Scale'],
  ['seed', 'Seed'],
  ['size', 'Size'],
  ['model_hash', 'Model hash'],
  ['model', 'Model'],
  ['vae', 'VAE'],
  ['strength', 'Denoising strength'],
  ['clip_skip', 'Clip skip'],
  ['eta', 'Eta'],
  ['control', 'ControlNet 0'],
  ['lora_hashes', 'Lora hashes']
]

export const samplerTitles: Readonly<Record<string, string>> = {
  euler: 'Euler',
  euler_a: 'Euler a',
  heun: 'Heun',
  dpm2: 'DPM2',
  'dpm++2s_a': 'DPM++ 2S a',
  'dpm++2m': 'DPM++ 2M',
  'dpm++2mv2': 'DPM++ 2M v2',
  ipndm: 'IPNDM',
  ipndm_v: 'IPNDM_V',
  lcm: 'LCM',
  ddim_trailing: 'DDIM',
  tcd: 'TCD',
  res_multistep: 'Res Multistep'
}

/** Schedules that have a name there. */
export const schedulerTitles: Readonly<Record<string, string>> = {
  discrete: 'Uniform',
  karras: 'Karras',
  exponential: 'Exponential',
  sgm_uniform: 'SGM Uniform',
  simple: 'Simple',
  kl_optimal: 'KL Optimal',
  ays: 'Align Your Steps'
}

type Hashes = Readonly<Record<string, string>>

/** Digits of a SHA-256 by which model sites know a file. */
const shownDigits = 10

interface Named {
  model: string
  loras?: Array<{ name: string, weight?: number }>
  components?: Record<string, string>
  control_net?: string
  control_strength?: number
}

/**
 * The generation data of one image as text: prompt, negative prompt, and a line of settings.
 * @param hashes the SHA-256 of models, by their ids.
 */
export function generationText (
  job: Job, image: Pick<EngineImage, 'width' | 'height' | 'seed'>, hashes: Hashes = {}
): string {
  const { prompt, negative_prompt: negativePrompt, sampler, scheduler } = job.parameters
  const { loras = [], components = {}, control_net: controlNet, control_strength: strength = 1 } =
    job.parameters as unknown as Named
  const shown = (id: string) => hashes[id]?.slice(0, shownDigits)
  const values: Record<string, unknown> = {
    ...job.parameters,
    sampler: samplerTitles[String(sampler)] ?? sampler,
    scheduler: schedulerTitles[String(scheduler)],
    seed: image.seed,
    size: `${image.width}x${image.height}`,
    model_hash: shown(job.model),
    model: baseName(job.model),
    vae: components.vae && baseName(components.vae),
    control: controlNet && `Module: none, Model: ${baseName(controlNet)}, Weight: ${strength}`,
    lora_hashes: loras.filter(({ name }) => shown(name) !== undefined)
      .map(({ name }) => `${baseName(name)}: ${shown(name)}`).join(', ')
  }
  const encoders = Object.entries(components).filter(([name]) => name !== 'vae')
  const settings = [
    ...labels.map(([parameter, label]) => [label, values[parameter]] as const),
    ...encoders.map(([, id], index) => [`Module ${index + 1}`, baseName(id)] as const)
  ].flatMap(([label, value]) =>
    value === undefined || value === null || value === '' ? [] : [`${label}: ${quote(String(value))}`])
  const tags = loras.map(({ name, weight = 1 }) => `<lora:${baseName(name)}:${weight}>`)
  return [
    [String(prompt ?? ''), ...tags].filter(text => text !== '').join(' '),
    ...(negativePrompt ? [`Negative prompt: ${negativePrompt}`] : []),
    settings.join(', ')
  ].join('\n')
}

/** The image as it is delivered: with its generation data in the text chunk `parameters`. */
export function withGenerationText (job: Job, image: EngineImage, hashes?: Hashes): Buffer {
  return addText(image.png, 'parameters', generationText(job, image, hashes).replaceAll('\0', ''))
}

/** Readers split the line at commas and colons: values that hold one are written as JSON strings. */
function quote (value: string): string {
  return /[,:\n]/.test(value) ? JSON.stringify(value) : value
}

/** `checkpoint/folder/name.safetensors` → `name` */
export function baseName (id: string): string {
  return id.slice(id.lastIndexOf('/') + 1).replace(/\.[a-z0-9]{1,12}$/i, '')
}
