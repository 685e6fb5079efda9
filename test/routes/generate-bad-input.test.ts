import fc from 'fast-check'
import type { FastifyInstance, LightMyRequestResponse } from 'fastify'
import sharp from 'sharp'
import t, { type Test } from 'tap'
import { imageTypes, type Job, type ImageType } from '../../lib/jobs/job.ts'
import { build, expectError } from '../helper.ts'

/** Whatever is sent, the answer is the sender's fault, names the field, and the server goes on. */

t.setTimeout(300_000)

const good = { prompt: 'a fox', width: 64, height: 64, steps: 1, seed: 5 }

const badValues: Record<string, unknown[]> = {
  width: [0, -64, 1, 65, 100_000, 2 ** 53, '64', 64.5, null, true, [64], {}],
  height: [1, 128],
  steps: [0, 1e9, -1, 1.5, '1'],
  seed: [-2, 2 ** 53, 1e308, 'random'],
  cfg_scale: [-1, 101, '7'],
  guidance: [1e3],
  eta: [-0.1],
  clip_skip: [0, 13],
  batch_count: [0, 1e6],
  sampler: ['eulr', '', 1, '__proto__'],
  scheduler: ['none'],
  prompt: [
    5, null, ['a'], undefined, 'a\0b', 'x'.repeat(5 * 1024 * 1024), 'a <lora:x:y>', '<lora:a:1>'.repeat(700),
    'a <sd_cpp_extra_args>{"steps":999999}</sd_cpp_extra_args>'
  ],
  negative_prompt: ['x'.repeat(8001), '<sd_cpp_extra_args>', '<lora:a:1>'],
  model: ['', 'x'.repeat(513), 7, '../../etc/passwd', '/etc/passwd'],
  loras: [{}, 'a', Array.from({ length: 9 }, () => ({ name: 'a' })), [{ name: 'nothing' }]],
  hires: [1],
  vae_tiling: [true],
  cache: ['easycache'],
  custom_sigmas: [[], Array(200).fill(1)],
  priority: [11, 0.5],
  init_image: ['aaaa'],
  mask: ['aaaa'],
  strength: [0.5],
  repeats: [1],
  files: [{ init_image: 'x' }],
  parameters: [{}],
  owner: ['admin'],
  lora_model_dir: ['/'],
  constructor: [1],
  toString: [1],
  '': [1]
}

const badChanges: Array<readonly [change: object, field: string]> = [
  [{ width: 1, height: 1 }, 'width'],
  [{ seed: 2 ** 53 - 1, batch_count: 2 }, 'seed'],
  [{ loras: ['a'] }, 'loras.0'],
  [{ loras: [{}] }, 'loras.0.name'],
  [{ loras: [{ name: 'a', weight: '1' }] }, 'loras.0.weight'],
  [{ loras: [{ name: 'a', weight: 11 }] }, 'loras.0.weight'],
  [{ loras: [{ name: 'a', path: '/etc/passwd' }] }, 'loras.0.path'],
  [{ hires: { scale: 0 } }, 'hires.scale'],
  [{ hires: { scael: 2 } }, 'hires.scael'],
  [{ hires: { enabled: 'yes' } }, 'hires.enabled'],
  [{ hires: { model_path: '/etc/passwd' } }, 'hires.model_path'],
  [{ vae_tiling: { tile_size_x: -1 } }, 'vae_tiling.tile_size_x'],
  [{ vae_tiling: { target_overlap: 1 } }, 'vae_tiling.target_overlap'],
  [{ cache: {} }, 'cache.mode'],
  [{ cache: { mode: 'fast' } }, 'cache.mode'],
  [{ custom_sigmas: [1, 'a'] }, 'custom_sigmas.1'],
  [{ negativ_prompt: 'x' }, 'negative_prompt'],
  [{ ['x'.repeat(100_000)]: 1 }, 'xxx']
]

const post = (
  app: FastifyInstance,
  type: ImageType,
  body: object | string | Buffer,
  headers: Record<string, string> = { 'content-type': 'application/json' }
) =>
  app.inject({
    method: 'POST',
    url: `/api/generate/${type}`,
    headers,
    body: typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body)
  })

async function isHealthy (t: Test, app: FastifyInstance): Promise<void> {
  const { pid } = app.devices[0]!.engine.status
  t.equal((await app.inject('/api/health')).statusCode, 200)
  const done = await app.inject({ method: 'POST', url: '/api/generate/txt2img?wait=60', body: good })
  t.equal(done.json<Job>().status, 'completed', done.body)
  t.equal(app.devices[0]!.engine.status.pid, pid, 'by the same process of the engine')
}

function fieldsOf (response: LightMyRequestResponse): string {
  const { message, details } = response.json<{ error: { message: string, details?: unknown } }>().error
  return `${message} ${JSON.stringify(details)}`
}

t.test('bad fields are named', async t => {
  const app = await build(t)
  const { pid } = app.devices[0]!.engine.status

  for (const [change, field] of [
    ...Object.entries(badValues).flatMap(([field, values]) =>
      values.map(value => [{ [field]: value }, field] as const)),
    ...badChanges
  ]) {
    const response = await post(app, 'txt2img', { ...good, ...change })
    const label = JSON.stringify(change).slice(0, 80)
    t.ok([400, 404, 422].includes(response.statusCode), `${response.statusCode} for ${label}`)
    t.ok(fieldsOf(response).includes(field), `${field} in: ${response.body.slice(0, 300)}`)
    t.ok(response.body.length < 2000, 'an answer does not repeat what came')
  }
  t.match(await app.jobs.status(), { queued: 0, running: 0 }, 'none became a job')
  t.equal(app.devices[0]!.engine.status.pid, pid, 'and none reached the engine')

  t.test('numbers that JSON has not, or that are none', async t => {
    for (const value of [
      'NaN',
      'Infinity',
      '-Infinity',
      '0x40',
      '064',
      '+64',
      '.5',
      '1e',
      '1_000',
      'undefined',
      "'64'"
    ]) {
      expectError(t, await post(app, 'txt2img', `{"prompt":"a","steps":${value}}`), 400, 'SDR_INVALID_JSON')
    }
    for (const value of ['1e999', '-1e999', '1e-999', '-0', '99999999999999999999999', '1.0000000000000001e2']) {
      const response = await post(app, 'txt2img', `{"prompt":"a","cfg_scale":1,"steps":${value}}`)
      expectError(t, response, 400, 'SDR_INVALID_REQUEST', /steps/)
    }
    for (const [value, received] of [['1e999', 'Infinity'], ['-1e999', '-Infinity'], ['-0', '-0'], ['null', 'null']] as const) {
      const response = await post(app, 'txt2img', `{"prompt":"a","steps":${value}}`)
      expectError(t, response, 400, 'SDR_INVALID_REQUEST', new RegExp(`for steps but received ${received}$`))
    }
  })

  t.test('bodies that are none', async t => {
    for (const body of [
      '',
      '{',
      '{"prompt":"a"',
      '{"prompt":"a",}',
      "{prompt:'a'}",
      '\xff\xfe',
      '{"__proto__":{"steps":1}}',
      '{"prompt":"a","constructor":{"prototype":{}}}',
      '['.repeat(9)
    ]) {
      expectError(t, await post(app, 'txt2img', body), 400, 'SDR_INVALID_JSON')
    }
    for (const body of ['null', '[]', '"a fox"', '1', 'true', '['.repeat(100_000)]) { expectError(t, await post(app, 'txt2img', body), 400, 'SDR_INVALID_REQUEST', /body/) }
    for (const type of [
      'text/plain',
      'application/x-www-form-urlencoded',
      'application/xml',
      'image/png',
      'application/json5',
      'nonsense',
      ''
    ]) {
      const response = await post(app, 'txt2img', '{"prompt":"a"}', { 'content-type': type })
      t.ok(response.statusCode === 415 || response.statusCode === 400, `${type}: ${response.statusCode}`)
    }
    expectError(
      t,
      await app.inject({ method: 'POST', url: '/api/generate/txt2img' }),
      400,
      'SDR_INVALID_REQUEST',
      /body/
    )
    for (const [body, reason] of [
      ['', /it is empty/],
      ["{'prompt':'a'}", /JSON: Expected property name .* position 1/],
      ['{"prompt":"a","steps":NaN}', /JSON: Unexpected token 'N'\.$/],
      ['{"prompt":"a","seed":7}x', /position 23/],
      ['hello', /JSON: Unexpected token 'h'\.$/],
      ['{"prompt":"a","__proto__":{}}', /no field may be called __proto__/],
      [Buffer.from('{"prompt":"caf\xe9"}', 'latin1'), /not UTF-8/],
      ['{"prompt":"\\ud83d"}', /no other half/],
      ['{"prompt":"\\\\\\uDE00\\ud83d"}', /no other half/]
    ] as const) {
      const response = await post(app, 'txt2img', body)
      expectError(t, response, 400, 'SDR_INVALID_JSON', reason)
      t.notMatch(response.body, /prompt/, 'without a piece of the body')
    }
    for (const prompt of ['\\ud83d\\ude00 \\\\ud800', '\\u0041', '😀']) {
      const response = await post(app, 'txt2img', `{"prompt":"${prompt}","steps":0}`)
      expectError(t, response, 400, 'SDR_INVALID_REQUEST', /steps/)
    }
    expectError(t, await post(app, 'txt2img', '{}', { 'content-type': 'application/json', 'content-encoding': 'gzip' }), 415, 'SDR_UNSUPPORTED_MEDIA_TYPE', /compressed/)
    const cut = await post(app, 'txt2img', { prompt: 'a', steps: `${'x'.repeat(78)}😀` })
    t.notMatch(cut.body, /\\ud/, 'a refusal is whole, too')
    expectError(t, await post(app, 'txt2img', Buffer.alloc(9 * 1024 * 1024, ' ')), 413, 'SDR_BODY_TOO_LARGE')
    for (const [open, close] of [
      ['{"a":', '}'],
      ['[', ']']
    ] as const) {
      const nested = `{"prompt":"a","hires":${open.repeat(100_000)}1${close.repeat(100_000)}}`
      expectError(
        t,
        await post(app, 'txt2img', nested),
        400,
        'SDR_INVALID_REQUEST',
        /at most 8 lists and objects within each other for hires/
      )
    }
    for (const [body, message] of [
      [`{"prompt":"a","loras":[${' '.repeat(300_000)}1]}`, /at most 262144 bytes outside of strings for loras but received more/],
      [`{"prompt":"a","loras":[${'{},'.repeat(100_000)}1]}`, /at most 20000 values for loras but received more/],
      [`{"prompt":"a","custom_sigmas":[${'1,'.repeat(30_000)}1]}`, /at most 20000 values for custom_sigmas/],
      [`{"prompt":"${'x'.repeat(7 * 1024 * 1024)}"}`, /at most 1048576 bytes for prompt but received 7340032/],
      [`{"prompt":"a","${'x'.repeat(7 * 1024 * 1024)}":1}`, /a name of at most 1024 bytes for xxx.* but received one of 7340032/]
    ] as const) {
      const began = performance.now()
      expectError(t, await post(app, 'txt2img', body), 400, 'SDR_INVALID_REQUEST', message)
      t.ok(performance.now() - began < 2000, 'without making anything of it')
    }
    t.match((await post(app, 'txt2img', '{"prompt":"a","prompt":1}')).statusCode, 400, 'the last of two counts')
    for (const [fields, meant] of [
      [{ sampler_name: 'euler' }, 'sampler'],
      [{ sampler: 'DPM++ 2M Karras' }, 'dpm++2m with the scheduler karras'],
      [{ sampler: 'dpmpp_2m' }, 'dpm++2m'],
      [{ sampler: 'k_dpmpp_2s_ancestral' }, 'dpm++2s_a'],
      [{ sampler: 'k_euler_a' }, 'euler_a'],
      [{ sampler: 'Euler a' }, 'euler_a'],
      [{ sampler: 'eulr' }, 'euler'],
      [{ scheduler: 'Karras' }, 'karras']
    ] as const) {
      const { error } = (await post(app, 'txt2img', { ...good, ...fields })).json<{ error: { message: string } }>()
      t.match(error.message, `did you mean ${meant}?`, JSON.stringify(fields))
    }
    expectError(t, await post(app, 'txt2img', {}), 400, 'SDR_INVALID_REQUEST', /^prompt is missing$/)
    const noLora = await post(app, 'txt2img', { ...good, prompt: 'a fox <lora:minit2j:1>' })
    expectError(t, noLora, 404, 'SDR_MODEL_NOT_FOUND', /There is no LoRA "minit2j"\. GET/)
  })

  t.test('queries, headers and methods', async t => {
    for (const [url, field] of [
      ['?wait=-1', 'wait'],
      ['?wait=601', 'wait'],
      ['?wait=x', 'wait'],
      ['?wiat=1', 'wiat'],
      ['?wait=1&wait=2', 'wait']
    ]) {
      expectError(
        t,
        await app.inject({ method: 'POST', url: `/api/generate/txt2img${url}`, body: good }),
        400,
        'SDR_INVALID_REQUEST',
        new RegExp(field!)
      )
    }
    const headers = { 'content-type': 'application/json', 'idempotency-key': 'x'.repeat(256) }
    expectError(t, await post(app, 'txt2img', good, headers), 400, 'SDR_INVALID_REQUEST', /idempotency-key/)
    t.equal((await app.inject('/api/generate/txt2img')).statusCode, 405)
    t.equal((await app.inject({ method: 'POST', url: '/api/generate/txt2vid', body: good })).statusCode, 404)
  })

  t.test('control characters cost no more than others of their length', async t => {
    const cost = async (character: string) => {
      const began = process.cpuUsage()
      for (let time = 0; time < 10; time++) {
        const response = await post(app, 'txt2img', { ...good, model: character.repeat(340_000) })
        expectError(t, response, 400, 'SDR_INVALID_REQUEST', /512 characters for model/)
      }
      const { user, system } = process.cpuUsage(began)
      return user + system
    }
    await cost('字')
    const [usual, control] = [await cost('字'), await cost('\u202e')]
    t.ok(control < 2.5 * usual, `${control} µs instead of ${usual}`)
  })

  t.test('what is wrong with a length is said in words', async t => {
    for (const [change, message] of [
      [{ init_image: '' }, 'Expected a string of at least 1 character for init_image but received ""'],
      [{ init_image: null }, 'Expected a string of at least 1 character for init_image but received null'],
      [{ prompt: 1 }, 'Expected a string of at most 8000 characters for prompt but received 1'],
      [{ negative_prompt: 1 }, 'Expected a string of at most 8000 characters for negative_prompt but received 1'],
      [{ loras: Array(9).fill({ name: 'a' }) }, /^Expected an array of at most 8 entries for loras but received /],
      [{ custom_sigmas: [1] }, 'Expected an array of 2 to 151 entries for custom_sigmas but received [ 1 ]'],
      [{ eta: -1 }, 'Expected a number from 0 to 10 for eta but received -1']
    ] as const) {
      const response = await post(app, 'img2img', { ...good, init_image: 'aaaa', ...change })
      t.match(response.json(), { error: { message } })
    }
  })

  t.test('images', async t => {
    const png = await sharp({ create: { width: 64, height: 64, channels: 3, background: 'red' } })
      .png()
      .toBuffer()
    const bomb = Buffer.from(png)
    bomb.writeUInt32BE(100_000, 16)
    bomb.writeUInt32BE(100_000, 20)
    for (const init of [
      '',
      5,
      null,
      {},
      [png.toString('base64')],
      'no image',
      'data:image/svg+xml;base64,PHN2Zy8+',
      'data:image/png,xx',
      'http://169.254.169.254/latest/meta-data',
      'file:///etc/passwd',
      png.subarray(0, 40).toString('base64'),
      bomb.toString('base64'),
      Buffer.from('GIF89a').toString('base64'),
      Buffer.from('<svg/>').toString('base64'),
      '\0',
      'a'.repeat(1_000_000)
    ]) {
      const response = await post(app, 'img2img', { ...good, init_image: init })
      t.ok(
        response.statusCode === 400 || response.statusCode === 413,
        `${response.statusCode} for ${String(init).slice(0, 40)}`
      )
      t.ok(fieldsOf(response).includes('init_image'), response.body.slice(0, 200))
    }
    expectError(
      t,
      await post(app, 'img2img', { ...good, init_image: 'A'.repeat(29 * 1024 * 1024) }),
      413,
      'SDR_BODY_TOO_LARGE',
      /init_image/
    )
    expectError(
      t,
      await post(app, 'img2img', { ...good, init_image: 'A'.repeat(40 * 1024 * 1024) }),
      413,
      'SDR_BODY_TOO_LARGE'
    )
  })

  await isHealthy(t, app)
})

t.test('no body makes a defect', async t => {
  const app = await build(t, {
    'max-steps': '2',
    'max-width': '128',
    'max-height': '128',
    'queue-per-owner': '5',
    'rate-limit': '1000000'
  })
  const { parameters } = (await app.inject('/api/parameters')).json<{
    parameters: Array<{
      name: string
      values?: string[]
      minimum?: number
      maximum?: number
      parts?: Array<{ name: string }>
    }>
  }>()
  const strange = fc.oneof(
    fc.constantFrom<unknown>(
      0,
      -1,
      1,
      64,
      64.5,
      128,
      1e9,
      2 ** 31 - 1,
      2 ** 53,
      -0,
      null,
      true,
      '',
      'a fox',
      '<lora:a:1>',
      'embedding:x',
      '\0',
      '\ud800',
      [],
      {},
      [[]],
      [{}],
      { enabled: true },
      { enabled: false }
    ),
    fc.string({ unit: 'grapheme' }),
    fc.double(),
    fc.integer(),
    fc.jsonValue({ maxDepth: 3 })
  )
  const likely = (name: string) => {
    const { values, minimum = 0, maximum = 128, parts } = parameters.find(parameter => parameter.name === name)!
    const whole = fc.integer({ min: Math.ceil(minimum / 8) - 1, max: Math.floor(maximum / 8) + 1 }).map(n => n * 8)
    return fc.oneof(
      { weight: 4, arbitrary: values === undefined ? whole : fc.constantFrom(...values) },
      {
        weight: 1,
        arbitrary:
          parts === undefined
            ? strange
            : (fc.dictionary(fc.constantFrom(...parts.map(part => part.name)), strange) as fc.Arbitrary<unknown>)
      },
      { weight: 1, arbitrary: strange }
    )
  }
  const fields = parameters.map(({ name }) => name)
  const body = fc
    .record(Object.fromEntries(fields.map(name => [name, likely(name)])), { requiredKeys: [] })
    .chain(some =>
      fc
        .record({
          prompt: fc.oneof({ weight: 4, arbitrary: fc.constant('a fox') }, { weight: 1, arbitrary: strange }),
          unknown: fc.option(strange, { nil: undefined, freq: 8 })
        })
        .map(({ prompt, unknown }) => ({ ...some, prompt, ...(unknown !== undefined && { unknown }) }))
    )
  const few = fc
    .tuple(body, fc.shuffledSubarray(fields, { maxLength: 4 }))
    .map(([whole, kept]) =>
      Object.fromEntries(
        Object.entries(whole).filter(([name]) => kept.includes(name) || name === 'prompt' || name === 'unknown')
      )
    )

  const seen = new Set<number>()
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...imageTypes),
      fc.oneof(body, few, few, fc.jsonValue() as fc.Arbitrary<object>),
      async (type, value) => {
        const response = await post(app, type, value)
        seen.add(response.statusCode)
        if (response.statusCode < 400) return response.json<Job>().status !== undefined
        return response.statusCode < 500 && /^SDR_/.test(response.json<{ error: { code: string } }>().error.code)
      }
    ),
    { numRuns: 1500 }
  )
  for (const status of [202, 400, 422]) t.ok(seen.has(status), `among the answers is ${status}`)

  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...imageTypes),
      fc.oneof(
        fc.string(),
        fc.uint8Array().map(bytes => Buffer.from(bytes))
      ),
      async (type, raw) => {
        const response = await post(app, type, raw as string | Buffer)
        return response.statusCode >= 400 && response.statusCode < 500
      }
    ),
    { numRuns: 200 }
  )

  for (const { id } of (await app.jobs.list({ status: 'queued', limit: 200 })).jobs) await app.jobs.cancel(id)
  const ended = (await app.jobs.list({ limit: 200 })).jobs.filter(({ status }) => status === 'failed' || status === 'completed')
  t.same(
    ended.filter(({ status }) => status === 'failed').map(({ parameters, error }) => ({ parameters, error })),
    [],
    'what is accepted is drawn'
  )
  t.equal(app.devices[0]!.engine.status.restarts, 0)
  await isHealthy(t, app)
})
