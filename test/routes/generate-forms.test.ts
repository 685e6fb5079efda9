import sharp from 'sharp'
import t from 'tap'
import type { Capability } from '../../lib/engine/engine.ts'
import type { Job } from '../../lib/jobs/job.ts'
import { build } from '../helper.ts'

/** Multipart forms as they really come: in any order, with too much, too little and the wrong kind in them. */

t.setTimeout(120_000)

interface Part { name?: string, value: string | Buffer, file?: string, type?: string, disposition?: string }

function form (...parts: Part[]): Buffer {
  return Buffer.concat([
    ...parts.flatMap(({ name, value, file, type, disposition }) => [
      Buffer.from(`--b\r\nContent-Disposition: ${disposition ?? 'form-data'}` +
        (name === undefined ? '' : `; name="${name}"`) + (file === undefined ? '' : `; filename="${file}"`) +
        (type === undefined ? '' : `\r\nContent-Type: ${type}`) + '\r\n\r\n'),
      Buffer.from(value as string),
      Buffer.from('\r\n')
    ]),
    Buffer.from('--b--\r\n')
  ])
}

const field = (name: string, value: string | Buffer): Part => ({ name, value })

t.test('forms', async t => {
  const app = await build(t, { 'rate-limit': '100000' })
  const post = (body: Buffer, type = 'txt2img', wait = 60) => app.inject({
    method: 'POST',
    url: `/api/generate/${type}?wait=${wait}`,
    headers: { 'content-type': 'multipart/form-data; boundary=b' },
    body
  })
  const engineHas = (capability: Capability) => app.engineInfo.capabilities.includes(capability)
  const fields = { prompt: 'a fox', width: '64', height: '64', steps: '1', seed: '5' }
  const all = (changes: Record<string, string> = {}) =>
    Object.entries({ ...fields, ...changes }).map(([name, value]) => field(name, value))
  const done = async (...parts: Part[]) => {
    const response = await post(form(...parts))
    t.equal(response.statusCode, 200, response.body.slice(0, 300))
    return response.json<Job>()
  }

  t.test('numbers as text, in every spelling that is one', async t => {
    for (const [steps, expected] of [['2', 2], [' 2 ', 2], ['2.0', 2], ['+2', 2], ['2e0', 2], ['02', 2]] as const) {
      t.match((await done(...all({ steps }))).parameters, { steps: expected }, steps)
    }
    for (const steps of ['two', '0x2', '2,0', '1.5', 'NaN', 'Infinity', '1e400', '-1', '2 2', 'true', '[2]', '"2"', '٢']) {
      const response = await post(form(...all({ steps })))
      t.equal(response.statusCode, 400, steps)
      t.match(response.json(), { error: { code: 'SDR_INVALID_REQUEST', message: /integer from 1 to 150 for steps but received/ } })
    }
  })

  t.test('digits and blanks without end are refused in linear time', async t => {
    for (const steps of ['1', '1.', ' ', '+', '.1'].map(piece => `${piece.repeat(100_000)}x`)) {
      const start = performance.now()
      t.equal((await post(form(...all({ steps })))).statusCode, 400)
      t.ok(performance.now() - start < 2000, steps.slice(0, 10))
    }
  })

  t.test('in any order, many in one', async t => {
    const parameters = JSON.stringify({ steps: 3, width: 64, height: 64, prompt: 'a cat', seed: 1 })
    const first = await done(field('parameters', parameters), ...all())
    const last = await done(...all().reverse(), field('parameters', parameters))
    t.match(first.parameters, { prompt: 'a fox', steps: 1, seed: 5 }, 'fields of their own go before')
    t.same(last.parameters, first.parameters, 'wherever they stand')
    t.match((await done(...all(), field('negative_prompt', ''), field('hires', ''))).parameters, { negative_prompt: '' },
      'empty fields are as good as absent')
  })

  t.test('a list as one field, or as one for each entry', async t => {
    const sigmas = async (...values: string[]) => {
      const { parameters } = await done(...all(), ...values.map(value => field('custom_sigmas', value)))
      return parameters.custom_sigmas
    }
    const expected = engineHas('custom_sigmas') ? [10, 1, 0] : undefined
    if (expected !== undefined) {
      t.same(await sigmas('[10,1,0]'), expected)
      t.same(await sigmas('10', '1', '0'), expected)
      t.same(await sigmas('[10,1]', '0'), expected)
    }
    for (const values of [['{"name":"a"}'], ['{"name":"a"}', '{"name":"b"}'], ['[{"name":"a"}]', '{"name":"b"}']]) {
      const response = await post(form(...all(), ...values.map(value => field('loras', value))))
      t.match(response.json(), { error: { code: /SDR_MODEL_NOT_FOUND|SDR_UNSUPPORTED_FEATURE/ } }, values.join())
    }
  })

  t.test('what makes no sense is named', async t => {
    const png = await sharp({ create: { width: 64, height: 64, channels: 3, background: 'red' } }).png().toBuffer()
    const image = { name: 'init_image', value: png, file: '../../etc/passwd', type: 'text/html' }
    for (const [what, type, parts, status, message] of [
      ['Latin-1', 'txt2img', [...all(), field('negative_prompt', Buffer.from('café', 'latin1'))], 400, /UTF-8 for negative_prompt/],
      ['Latin-1 among many', 'txt2img', [field('parameters', Buffer.from('{"prompt": "café"}', 'latin1'))], 400, /UTF-8 for parameters/],
      ['twice', 'txt2img', [...all(), field('seed', '6')], 400, /one value for seed but received several/],
      ['twice the same', 'txt2img', [...all(), field('seed', '5')], 400, /one value for seed/],
      ['two images in one field', 'img2img', [...all(), image, image], 400, /one value for init_image/],
      ['a file and a text', 'img2img', [...all(), image, field('init_image', 'aaaa')], 400, /one value for init_image/],
      ['a file for a text', 'txt2img', [...all({ prompt: '' }), { name: 'negative_prompt', value: 'x', file: 'x.txt' }], 400, /negative_prompt/],
      ['a file that nothing takes', 'txt2img', [...all(), image], 400, /init_image/],
      ['unknown', 'txt2img', [...all(), field('stepps', '1')], 400, /did you mean steps/],
      ['a name of objects', 'txt2img', [...all(), field('constructor', '1')], 400, /names of parameters for the form/],
      ['no name', 'txt2img', [...all(), { value: '1' }], 400, /a name for each part for the form/],
      ['an empty name', 'txt2img', [...all(), field('', '1')], 400, /a name for each part for the form/],
      ['a name of ten thousand letters', 'txt2img', [...all(), field('n'.repeat(10_000), '1')], 400, /no such field.* for nnn/],
      ['a list that is none', 'txt2img', [...all(), field('loras', 'true')], 400, /array.* for loras/],
      ['an entry of a list that is none', 'txt2img', [...all(), field('loras', '{}')], 400, /loras\.0\.name is missing/],
      ['a list of text', 'txt2img', [...all(), field('custom_sigmas', '10000,10000')], 400, /array of 2 to 151 entries for custom_sigmas/],
      ['an object twice', 'txt2img', [...all(), field('hires', '{}'), field('hires', '{}')], 400, /one value for hires but received several/],
      ['a list of many', 'txt2img', [...all(), field('loras', `[${'{},'.repeat(50_000)}1]`)], 400, /at most 20000 values for loras/],
      ['JSON that says so, again and again', 'txt2img', [...all(), ...Array.from({ length: 20 }, () => ({ name: 'loras', value: '[{}]', type: 'application/json' }))], 400, /at most \d+ entries for loras/],
      ['a list of many that says it is JSON', 'txt2img', [...all(), { name: 'loras', value: `[${'{},'.repeat(50_000)}1]`, type: 'application/json' }], 400, /at most 20000 values for loras/],
      ['many lists that say so', 'txt2img', Array.from({ length: 20 }, (_, n) => ({ name: `f${n}`, value: `[${'{},'.repeat(9000)}1]`, type: 'application/json' })), 413, /f\d+ is too large together with the JSON before it/],
      ['many lists that do not', 'txt2img', Array.from({ length: 20 }, () => field('loras', `[${'{},'.repeat(9000)}1]`)), 413, /loras is too large together with the JSON before it/],
      ['JSON that is no field any more', 'txt2img', [{ name: 'loras', value: `["${'x'.repeat(300_000)}"]`, type: 'application/json' }], 413, /loras is too large as the field/],
      ['Latin-1 in a part that is JSON', 'txt2img', [{ name: 'prompt', value: Buffer.from('"café"', 'latin1'), type: 'application/json' }], 400, /UTF-8 for prompt/],
      ['half a character in a part that is JSON', 'txt2img', [{ name: 'prompt', value: '"\\ud83d"', type: 'application/json' }], 400, /whole characters for prompt/],
      ['an object that is none', 'txt2img', [...all(), field('vae_tiling', 'true')], 400, /object for vae_tiling/],
      ['JSON that is none', 'txt2img', [field('parameters', '{')], 400, /an object in JSON for parameters/],
      ['half a character', 'txt2img', [field('parameters', '{"prompt":"\\ud83d"}')], 400, /whole characters for prompt/],
      ['a part that says it is JSON', 'txt2img', [{ name: 'parameters', value: '{', type: 'application/json' }], 400, /JSON where a part says/],
      ['nothing that is needed', 'txt2img', [], 400, /prompt is missing/],
      ['an empty file', 'img2img', [...all(), { ...image, value: '' }], 400, /PNG, JPEG or WebP image for init_image but received nothing/],
      ['many files', 'img2img', Array.from({ length: 120 }, (_, n) => ({ ...image, name: `f${n}` })), 413, /too many (files|parts)/],
      ['many fields', 'txt2img', Array.from({ length: 300 }, (_, n) => field(`f${n}`, '')), 413, /too many fields/]
    ] as Array<[string, string, Part[], number, RegExp]>) {
      const response = await post(form(...parts), type)
      t.equal(response.statusCode, status, `${what}: ${response.body.slice(0, 200)}`)
      t.match(response.json(), { error: { message } }, what)
    }
  })
  t.match(await done(...all()), { status: 'completed' }, 'and forms are taken as before')

  t.test('fields that say they are JSON', async t => {
    const json = (name: string, value: unknown) => ({ name, value: JSON.stringify(value), type: 'application/json; charset=utf-8' })
    const typed = Object.entries({ ...fields, width: 64, steps: 1, seed: 7 }).map(([name, value]) => json(name, value))
    t.match((await done(...typed, json('loras', []))).parameters, { prompt: 'a fox', width: 64, height: 64, seed: 7 })
    t.match((await done(json('parameters', { prompt: 'a fox', width: 64, height: 64, steps: 1 }), field('seed', '8'))).parameters, { prompt: 'a fox', seed: 8 })
  })
})
