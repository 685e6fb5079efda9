import type { EngineImage } from '../../engine/engine.ts'
import { addText } from '../../media/png.ts'
import type { Job } from '../../jobs/job.ts'

/** Parameter → label of the line of settings, as the A1111 family of tools reads and writes it. */
const labels: ReadonlyArray<[parameter: string, label: string]> = [
  ['steps', 'Steps'],
  ['sampler', 'Sampler'],
  ['scheduler', 'Schedule type'],
  ['cfg_scale', 'CFG scale'],
  ['guidance', 'Distilled CFG Scale'],
  ['seed', 'Seed'],
  ['size', 'Size'],
  ['model', 'Model'],
  ['strength', 'Denoising strength'],
  ['clip_skip', 'Clip skip'],
  ['eta', 'Eta'],
  ['control_net', 'ControlNet'],
  ['control_strength', 'ControlNet strength'],
  ['loras', 'Loras'],
  ['components', 'Components']
]

const samplers: Readonly<Record<string, string>> = {
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
  tcd: 'TCD'
}

const schedulers: Readonly<Record<string, string>> = {
  karras: 'Karras',
  exponential: 'Exponential',
  sgm_uniform: 'SGM Uniform',
  simple: 'Simple',
  kl_optimal: 'KL Optimal',
  ays: 'Align Your Steps'
}

/** The generation data of one image as text: prompt, negative prompt, and a line of settings. */
export function generationText (job: Job, image: Pick<EngineImage, 'width' | 'height' | 'seed'>): string {
  const { prompt, negative_prompt: negativePrompt, sampler, scheduler, loras, components } = job.parameters
  const values: Record<string, unknown> = {
    ...job.parameters,
    sampler: samplers[String(sampler)] ?? sampler,
    scheduler: schedulers[String(scheduler)] ?? scheduler,
    seed: image.seed,
    size: `${image.width}x${image.height}`,
    model: baseName(job.model),
    loras: (loras as Array<{ name: string, weight?: number }> | undefined)
      ?.map(({ name, weight = 1 }) => `${baseName(name)}: ${weight}`).join(', '),
    components: components &&
      Object.entries(components as Record<string, string>).map(([name, id]) => `${name}: ${baseName(id)}`).join(', ')
  }
  const settings = labels.flatMap(([parameter, label]) => {
    const value = values[parameter]
    return value === undefined || value === null || value === '' ? [] : [`${label}: ${quote(String(value))}`]
  })
  return [
    String(prompt ?? ''),
    ...(negativePrompt ? [`Negative prompt: ${negativePrompt}`] : []),
    settings.join(', ')
  ].join('\n')
}

/** The image as it is delivered: with its generation data in the text chunk `parameters`. */
export function withGenerationText (job: Job, image: EngineImage): Buffer {
  return addText(image.png, 'parameters', generationText(job, image).replaceAll('\0', ''))
}

/** Readers split the line at commas and colons: values that hold one are written as JSON strings. */
function quote (value: string): string {
  return /[,:\n]/.test(value) ? JSON.stringify(value) : value
}

/** `checkpoint/folder/name.safetensors` → `name` */
function baseName (id: string): string {
  return id.slice(id.lastIndexOf('/') + 1).replace(/\.[a-z0-9]{1,12}$/i, '')
}
