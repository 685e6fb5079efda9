import { baseName, generationText, samplerTitles, schedulerTitles } from '../../generation/run/generation-text.ts'
import type { Job } from '../../jobs/job.ts'
import type { Model } from '../../models/model.ts'

/** Digits of a SHA-256 that A1111 shows. */
const shownDigits = 10

/** A model as `sd-models` lists it. */
export function describeCheckpoint ({ id, sha256 }: Pick<Model, 'id'> & { sha256?: string | null }) {
  const hash = sha256?.slice(0, shownDigits) ?? null
  const file = id.slice(id.indexOf('/') + 1)
  return {
    title: hash === null ? file : `${file} [${hash}]`,
    model_name: baseName(id),
    hash,
    sha256: sha256 ?? null,
    filename: id,
    config: null
  }
}

/** What `info` of an answer says: a text in JSON, as A1111 sends it. */
export function infoOf (jobs: readonly Job[]): string {
  const images = jobs.flatMap(job => job.images.map(image => ({ job, image })))
  const [first] = images
  const parameters = (first?.job.parameters ?? {}) as Record<string, any>
  const {
    prompt = '', negative_prompt: negativePrompt = '', sampler, scheduler, steps, cfg_scale: scale, strength = null,
    clip_skip: skip = 1
  } = parameters
  return JSON.stringify({
    prompt,
    all_prompts: images.map(() => prompt),
    negative_prompt: negativePrompt,
    all_negative_prompts: images.map(() => negativePrompt),
    seed: first?.image.seed ?? -1,
    all_seeds: images.map(({ image }) => image.seed),
    subseed: -1,
    all_subseeds: images.map(() => -1),
    subseed_strength: 0,
    width: first?.image.width ?? 0,
    height: first?.image.height ?? 0,
    sampler_name: samplerTitles[sampler] ?? sampler,
    cfg_scale: scale,
    steps,
    batch_size: images.length,
    restore_faces: false,
    face_restoration_model: null,
    sd_model_name: first === undefined ? '' : baseName(first.job.model),
    sd_model_hash: null,
    sd_vae_name: null,
    denoising_strength: strength,
    extra_generation_params: { 'Schedule type': schedulerTitles[scheduler] ?? scheduler },
    index_of_first_image: 0,
    infotexts: images.map(({ job, image }) => generationText(job, image)),
    styles: [],
    job_timestamp: first?.job.created_at.replaceAll(/\D/g, '').slice(0, 14) ?? '',
    clip_skip: skip,
    is_using_inpainting_conditioning: false
  })
}

/** What `progress` says while nothing of the caller runs. */
export const idle = {
  progress: 0,
  eta_relative: 0,
  state: {
    skipped: false,
    interrupted: false,
    stopping_generation: false,
    job: '',
    job_count: 0,
    job_timestamp: '0',
    job_no: 0,
    sampling_step: 0,
    sampling_steps: 0
  },
  current_image: null as string | null,
  textinfo: null as string | null
}

/** @param jobs of one request, as they are now. @param preview of an unfinished image, in base64. */
export function progressOf (jobs: readonly Job[], preview: string | null): typeof idle {
  const ended = jobs.filter(({ status }) => status !== 'queued' && status !== 'running').length
  const { progress, created_at: created } = jobs.find(({ status }) => status === 'running') ?? jobs[0]!
  const step = progress?.step ?? 0
  const steps = progress?.steps ?? 0
  return {
    progress: Math.min(1, (ended + (steps > 0 ? step / steps : 0)) / jobs.length),
    eta_relative: progress?.eta_seconds ?? 0,
    state: {
      ...idle.state,
      job: 'scripts_txt2img',
      job_count: jobs.length,
      job_timestamp: created.replaceAll(/\D/g, '').slice(0, 14),
      job_no: ended,
      sampling_step: step,
      sampling_steps: steps
    },
    current_image: preview,
    textinfo: null
  }
}
