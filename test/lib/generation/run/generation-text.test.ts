import t from 'tap'
import { generationText, withGenerationText } from '../../../../lib/generation/run/generation-text.ts'
import type { Job } from '../../../../lib/jobs/job.ts'
import { png } from '../../jobs/fixtures/scripted-engine.ts'

function job (parameters: Record<string, unknown>, model = 'checkpoint/anime/some model v1.5.safetensors'): Job {
  return {
    id: 'x',
    type: 'txt2img',
    status: 'running',
    owner: 'ann',
    model,
    position: null,
    priority: 0,
    progress: null,
    parameters,
    images: [],
    result: null,
    error: null,
    attempts: 1,
    created_at: '2026-01-01T00:00:00.000Z',
    started_at: null,
    finished_at: null
  }
}

const image = { width: 512, height: 768, seed: 42 }

/** Reads the text by the rules of the A1111 web UI: a regular expression for the last line, JSON for quoted values. */
function parse (text: string) {
  const lines = text.trim().split('\n')
  const last = lines.pop()!
  const settings: Record<string, string> = {}
  // eslint-disable-next-line regexp/no-super-linear-backtracking, regexp/no-super-linear-move -- it is the web UI's own
  for (const [, key, value] of last.matchAll(/\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)/g)) {
    settings[key!] = value!.startsWith('"') && value!.endsWith('"') ? JSON.parse(value!) : value!
  }
  const prompts: [string[], string[]] = [[], []]
  let which = 0
  for (const line of lines) {
    if (line.startsWith('Negative prompt:')) which = 1
    prompts[which]!.push(line.replace(/^Negative prompt:/, '').trim())
  }
  return { prompt: prompts[0].join('\n'), negativePrompt: prompts[1].join('\n'), settings }
}

t.test('the usual text', async t => {
  t.equal(generationText(job({
    prompt: 'a cat, (masterpiece:1.2)',
    negative_prompt: 'dog',
    steps: 20,
    sampler: 'euler_a',
    scheduler: 'karras',
    cfg_scale: 7.5,
    seed: 41,
    width: 512,
    height: 768
  }), image), [
    'a cat, (masterpiece:1.2)',
    'Negative prompt: dog',
    'Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7.5, Seed: 42, Size: 512x768, ' +
      'Model: some model v1.5'
  ].join('\n'))
})

t.test('tools read back what was asked for', async t => {
  const prompts = [
    'a cat', 'кошка, собака: вместе', '屋根の上の猫 🐈', 'two\nlines, "quoted" \\ back', 'a: b, c: "d'
  ]
  for (const prompt of prompts) {
    for (const negative of [undefined, ...prompts]) {
      const parsed = parse(generationText(job({ prompt, negative_prompt: negative, steps: 20, cfg_scale: 7 }), image))
      t.same(parsed, {
        prompt,
        negativePrompt: negative ?? '',
        settings: { Steps: '20', 'CFG scale': '7', Seed: '42', Size: '512x768', Model: 'some model v1.5' }
      })
    }
  }
})

t.test('values that hold separators are quoted', async t => {
  const { settings } = parse(generationText(job({
    prompt: 'x',
    sampler: 'a sampler, with: separators "and" quotes',
    scheduler: 'new_one',
    strength: 0.6,
    clip_skip: 2,
    guidance: 3.5,
    loras: [{ name: 'lora/style/pixel art.safetensors', weight: 0.8 }, { name: 'lora/b,c' }]
  }, 'checkpoint/odd: name, really.gguf'), image))
  t.same(settings, {
    Sampler: 'a sampler, with: separators "and" quotes',
    'Distilled CFG Scale': '3.5',
    Seed: '42',
    Size: '512x768',
    Model: 'odd: name, really',
    'Denoising strength': '0.6',
    'Clip skip': '2'
  })
})

t.test('models are named as other tools name them', async t => {
  const parameters = {
    prompt: 'a fox',
    negative_prompt: 'ugly',
    scheduler: 'discrete',
    loras: [{ name: 'lora/style/pixel art.safetensors', weight: 0.8 }, { name: 'lora/b.safetensors' }],
    components: { vae: 'vae/ae.safetensors', clip_l: 'text_encoder/clip_l.safetensors', t5xxl: 'text_encoder/t5.gguf' },
    control_net: 'controlnet/lines.safetensors',
    control_strength: 0.9
  }
  const hashes = {
    'checkpoint/anime/some model v1.5.safetensors': `0123456789${'a'.repeat(54)}`,
    'lora/b.safetensors': `9876543210${'b'.repeat(54)}`
  }
  t.strictSame(parse(generationText(job(parameters), image, hashes)), {
    prompt: 'a fox <lora:pixel art:0.8> <lora:b:1>',
    negativePrompt: 'ugly',
    settings: {
      'Schedule type': 'Uniform',
      Seed: '42',
      Size: '512x768',
      'Model hash': '0123456789',
      Model: 'some model v1.5',
      VAE: 'ae',
      'ControlNet 0': 'Module: none, Model: lines, Weight: 0.9',
      'Lora hashes': 'b: 9876543210',
      'Module 1': 'clip_l',
      'Module 2': 't5'
    }
  })
  const { prompt, settings } = parse(generationText(job({ prompt: '', loras: parameters.loras }), image))
  t.equal(prompt, '<lora:pixel art:0.8> <lora:b:1>')
  t.notOk('Model hash' in settings || 'Lora hashes' in settings)
})

t.test('an upscale has no prompt, and no prompt can break the file', async t => {
  t.match(generationText(job({ repeats: 1 }), image), /^\nSeed: 42, Size: 512x768/)
  const marked = withGenerationText(job({ prompt: 'a\0b' }), { ...image, index: 0, png: png(5, 3) })
  t.ok(marked.includes('parameters\0ab\nSeed: 42'))
})
