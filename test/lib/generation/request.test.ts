import fc from 'fast-check'
import t from 'tap'
import type { ApiError } from '../../../errors.ts'
import type { EngineInfo } from '../../../lib/engine/engine.ts'
import { readForm, type FormPart } from '../../../lib/generation/form.ts'
import { checkBounds } from '../../../lib/generation/bounds.ts'
import { imageMismatch } from '../../../lib/generation/model.ts'
import { checkNegativePrompt, readPrompt, replaceEmbeddings } from '../../../lib/generation/prompts.ts'
import { requestParameters } from '../../../lib/generation/request-schema.ts'
import { chooseSize } from '../../../lib/generation/size.ts'
import { resolveOptions } from '../../../lib/options/resolve.ts'
import type { Model } from '../../../lib/models/model.ts'

const limits = resolveOptions({})
const refusal = (code: string, message: RegExp) => ({ code, message }) as unknown as Error

t.test('models that would draw without the images', async t => {
  const of = (name: string, architecture: string) =>
    Object.values(imageMismatch({ [name]: 'an image' }, { id: 'm', architecture } as Model) ?? { no: 'none' }).join(': ')
  t.match(of('init_image', 'minit2i'), /^init_image: m draws from a text alone/)
  t.match(of('control_image', 'minit2i'), /^control_image: m draws from a text alone/)
  t.match(of('ref_images', 'sd1'), /^ref_images: m takes no reference images/)
  t.match(of('photo_maker_images', 'sd1'), /^photo_maker_images: m is sd1; this takes sdxl/)
  t.equal(of('control_image', 'sd1'), 'none')
  t.equal(of('mask', 'minit2i'), 'none', 'which comes with an init image')
})

t.test('LoRAs are taken out of the prompt', async t => {
  const read = (prompt: string) => readPrompt(prompt, limits)
  const [a, b] = [
    { name: 'a', weight: 1 },
    { name: 'b', weight: 0.5 }
  ]
  for (const [prompt, text, ...loras] of [
    ['a fox', 'a fox'],
    [' as it is ', ' as it is '],
    ['a fox <lora:a:1>', 'a fox', a],
    ['<lora:a:1> a fox', 'a fox', a],
    ['a <lora:a:1> fox', 'a fox', a],
    ['a<lora:a:1>fox', 'afox', a],
    ['a fox,<lora:a:1><lora:b:0.5>, snow', 'a fox,, snow', a, b],
    ['a\n<lora:a>\nfox', 'a\nfox', a],
    ['<LoRA: a : 1 > fox', 'fox', a],
    ['fox <lora:b:.5>', 'fox', b],
    ['fox <lora:b:+0.50>', 'fox', b],
    ['fox <lora:b:-2>', 'fox', { name: 'b', weight: -2 }],
    ['fox <lora:some/folder/my lora v1.5:1>', 'fox', { name: 'some/folder/my lora v1.5', weight: 1 }],
    ['<lo<lora:a:1>ra:b:0.5> fox', 'fox', a, b],
    ['a < b and c > d', 'a < b and c > d'],
    ['', ''],
    [' <lora:a:1> ', '', a],
    ['(<lora:a:1>:1.2), a fox', ', a fox', a],
    ['(<lora:a:1>) a fox (:3)', 'a fox (:3)', a],
    ['(snow <lora:a:1>:1.2)', '(snow :1.2)', a],
    ['a < lora and a <3 lyco: fox', 'a < lora and a <3 lyco: fox']
  ] as const) { t.same(read(prompt), { text, loras }, prompt) }

  for (const tag of [
    '<lora:>',
    '<lora::1>',
    '<lora:a:>',
    '<lora:a:x>',
    '<lora:a:11>',
    '<lora:a:1e1>',
    '<lora:a:NaN>',
    '<lora:a:0x1>',
    '<lora:a:--1>'
  ]) {
    t.throws(
      () => read(`fox ${tag}`),
      refusal('SDR_INVALID_REQUEST', /<lora:name:weight> with a weight from −10 to 10 for prompt/),
      tag
    )
  }
  t.throws(
    () => read(`fox ${'<lora:a:1>'.repeat(9)}`),
    refusal('SDR_INVALID_REQUEST', /at most 8 LoRAs \(--max-loras\) for prompt/)
  )
  for (const tag of ['<lora:a:1:2>', '<lora:a:0.8:lbw=IN01>', '<lora:a:te=1:unet=0.5>']) {
    t.throws(() => read(tag), refusal('SDR_INVALID_REQUEST', /with one weight \(a second one.* is not supported\)/), tag)
  }
  for (const tag of ['<lyco:a:1>', '< lora:a:1>', '<lora :a:1>', 'an unfinished <lora:a:1', '<LoCon:a>', '<hypernet:x:1>']) {
    const reason = tag.startsWith('<hyper') ? /no hypernetwork/ : /Expected <lora:name:weight>, also for LyCORIS/
    t.throws(() => read(`a fox, ${tag}`), refusal('SDR_INVALID_REQUEST', reason), tag)
    t.throws(() => checkNegativePrompt(tag), refusal('SDR_INVALID_REQUEST', / for negative_prompt/), tag)
  }
  t.throws(() => checkNegativePrompt('ugly <lora:a:1>'), refusal('SDR_INVALID_REQUEST', /negative_prompt.*<lora:a:1>/))
  checkNegativePrompt('ugly')
})

t.test('the arguments of another server are refused', async t => {
  for (const prompt of [
    'fox <sd_cpp_extra_args>{"steps":1}</sd_cpp_extra_args>',
    '<SD_CPP_EXTRA_ARGS>',
    '< / sd_cpp_extra_args>',
    'fox <sd_cpp_<lora:a:1>extra_args>{}</sd_cpp_extra_args>'
  ]) {
    t.throws(
      () => readPrompt(prompt, limits),
      refusal('SDR_INVALID_REQUEST', /<sd_cpp_extra_args> .* for prompt/),
      prompt
    )
    t.throws(
      () => checkNegativePrompt(prompt.replace('<lora:a:1>', '')),
      refusal('SDR_INVALID_REQUEST', / for negative_prompt/)
    )
  }
})

t.test('a NUL is refused', async t => {
  t.throws(
    () => readPrompt('a\0 fox', limits),
    refusal('SDR_INVALID_REQUEST', /without NUL characters for prompt but received "a\\u0000 fox"/)
  )
  t.throws(() => checkNegativePrompt('\0'), refusal('SDR_INVALID_REQUEST', / for negative_prompt/))
})

t.test('no tag is ever left, and reading again changes nothing', async t => {
  const part = fc.constantFrom(
    '<lora:',
    'a',
    ':1',
    '>',
    '<',
    ' ',
    '\n',
    'lora:',
    'fox',
    '<lora:b:0.5>',
    '<lo',
    'ra:',
    '\0',
    '🦊'
  )
  fc.assert(
    fc.property(fc.array(part, { maxLength: 30 }), parts => {
      const prompt = parts.join('')
      try {
        const { text } = readPrompt(prompt, limits)
        const again = readPrompt(text, limits)
        return !/<lora:[^<>]*>/i.test(text) && again.text === text && again.loras.length === 0
      } catch (error) {
        return (error as ApiError).statusCode === 400
      }
    }),
    { numRuns: 2000 }
  )
  const start = performance.now()
  t.throws(
    () => readPrompt('<lora:a:1'.repeat(1700) + '>'.repeat(1700), limits),
    refusal('SDR_INVALID_REQUEST', /LoRAs/)
  )
  t.ok(performance.now() - start < 1000, 'and nested ones take no time')
})

t.test('embeddings', async t => {
  const replace = (prompt: string) => replaceEmbeddings(prompt, name => `[${name}]`)
  for (const [prompt, expected] of [
    ['embedding:easy', '[easy]'],
    ['bad, (embedding:easy-v1.2:1.3), embedding:folder/b.', 'bad, ([easy-v1.2]:1.3), [folder/b].'],
    ['an embedding: none', 'an embedding: none'],
    ['noembedding:easy', 'noembedding:easy'],
    ['embedding:狐_1', '[狐_1]']
  ] as const) { t.equal(replace(prompt), expected) }
})

const model = (changes: Partial<Model['limits']> = {}) =>
  ({
    id: 'checkpoint/x',
    limits: { min_side: 64, max_side: 2048, multiple_of: 64, square_only: false, ...changes }
  }) as Model

t.test('the size of an image', async t => {
  const defaults = { width: 512, height: 512 }
  const size = (
    request: { width?: number, height?: number },
    image?: [number, number],
    changes: Partial<typeof limits> = {},
    of = model()
  ) => {
    const { width, height } = chooseSize(request, of, defaults, image && { width: image[0], height: image[1] }, {
      ...limits,
      ...changes
    })
    return `${width}×${height}`
  }
  t.equal(size({}), '512×512')
  t.equal(size({ width: 100, height: 3 }), '100×3', 'what is given is not changed')
  t.equal(size({ width: 768 }), '768×768')
  t.equal(size({ height: 768 }), '768×768')
  t.equal(size({}, [4000, 3000]), '576×448', 'proportions of the image, pixels of the model')
  t.equal(size({}, [400, 300]), '384×320', 'a small image is not enlarged')
  t.equal(size({}, [1, 1]), '64×64')
  t.equal(size({}, [60_000, 10]), '2048×64')
  t.equal(size({}, [10, 60_000]), '64×2048')
  t.equal(size({ width: 640 }, [4000, 3000]), '640×512')
  t.equal(size({ height: 2048 }, [60_000, 10]), '2048×2048')
  t.equal(size({}, undefined, { maxWidth: 256, maxHeight: 300 }), '256×256', 'bounds go before what the model likes')
  t.equal(size({}, undefined, { maxPixels: 128 * 128 }), '128×128')
  t.equal(size({}, [300, 200], {}, model({ square_only: true })), '512×512')
  t.equal(size({ height: 128 }, undefined, {}, model({ square_only: true })), '128×128')
  t.equal(size({}, [513, 300], {}, { id: 'x' } as Model), '512×320', 'and of a model that nothing is known of')

  const near = (request: { width: number, height: number }, changes: Partial<typeof limits> = {}, of = model()) => {
    const { width, height } = chooseSize(request, of, defaults, undefined, { ...limits, ...changes }, true)
    return `${width}×${height}`
  }
  t.equal(near({ width: 1000, height: 500 }), '1024×512', 'the nearest')
  t.equal(near({ width: 1, height: 30_000 }), '64×2048')
  t.equal(near({ width: 3000, height: 1000 }), '2048×640', 'scaled, then rounded down')
  t.equal(near({ width: 1000, height: 500 }, {}, model({ square_only: true })), '512×512', 'the shorter side')
  t.equal(near({ width: 512, height: 480 }, { maxPixels: 512 * 448 }), '448×448', 'never above a bound')

  const side = fc.integer({ min: 1, max: 100_000 })
  fc.assert(fc.property(side, side, fc.integer({ min: 64 * 64, max: 2048 ** 2 }), (w, h, maxPixels) => {
    const bounds = { ...limits, maxPixels: Math.max(maxPixels, 64 * 2048) }
    const { width, height } = chooseSize({ width: w, height: h }, model(), defaults, undefined, bounds, true)
    return width * height <= bounds.maxPixels &&
      [width, height].every(side => side % 64 === 0 && side >= 64 && side <= 2048)
  }))
  fc.assert(
    fc.property(
      side,
      side,
      fc.integer({ min: 64, max: 2048 }),
      fc.integer({ min: 64, max: 2048 }),
      (w, h, maxWidth, maxHeight) => {
        const { width, height } = chooseSize(
          {},
          model(),
          defaults,
          { width: w, height: h },
          { ...limits, maxWidth, maxHeight }
        )
        return (
          width % 64 === 0 &&
          height % 64 === 0 &&
          width >= 64 &&
          height >= 64 &&
          width <= maxWidth &&
          height <= maxHeight
        )
      }
    )
  )
})

t.test('the work of a job is bounded, and the refusal says by what', async t => {
  const work = { width: 512, height: 512, steps: 20, seed: 1, batch_count: 1 }
  const check =
    (changes: object, of = model(), more: Partial<typeof limits> = {}) =>
      () =>
        checkBounds({ ...work, ...changes }, of, { ...limits, ...more })
  t.doesNotThrow(check({}))
  for (const [changes, message] of [
    [{ width: 2048, height: 2112 }, /from 64 to 2048.*for height but received 2112/],
    [{ width: 520 }, /a multiple of 64 .* for width but received 520/],
    [
      { width: 2048, height: 2048, steps: 150, batch_count: 8 },
      /at most 1000 megapixel steps \(--max-work\) for width × height × steps × batch_count but received 5034/
    ],
    [{ seed: 2 ** 53 - 1, batch_count: 2 }, /at most 9007199254740990 with batch_count 2 for seed/],
    [{ hires: { scale: 8 } }, /at most 4194304 pixels \(--max-pixels\) for hires but received 4096 × 4096 = 16777216/],
    [{ hires: { target_width: 2048, target_height: 2048, steps: 150 }, batch_count: 2 }, /--max-work/]
  ] as const) { t.throws(check(changes), refusal('SDR_INVALID_REQUEST', message), JSON.stringify(changes)) }
  t.throws(
    check({}, model(), { maxPixels: 512 * 512 - 1 }),
    refusal('SDR_INVALID_REQUEST', /width × height but received 512 × 512/)
  )
  t.throws(
    check({ width: 1024 }, model({ square_only: true })),
    refusal('SDR_INVALID_REQUEST', /1024, because checkpoint\/x draws squares only, for height/)
  )
  t.doesNotThrow(check({ seed: 2 ** 53 - 1 }))
  t.doesNotThrow(check({ width: 8192, height: 64 }, { id: 'x' } as Model))
})

t.test('forms', async t => {
  const engine = { capabilities: [], samplers: ['euler'], schedulers: [] } as unknown as EngineInfo
  const parameters = requestParameters(limits, engine)
  const field = (fieldname: string, value: unknown, more = {}): FormPart => ({
    type: 'field',
    fieldname,
    value,
    ...more
  })
  const file = (fieldname: string, bytes: Buffer, truncated = false): FormPart => ({
    type: 'file',
    fieldname,
    file: { truncated },
    toBuffer: async () => {
      if (truncated) throw Object.assign(new Error('too large'), { statusCode: 413 })
      return bytes
    }
  })
  const read = async (...parts: FormPart[]) =>
    await readForm(
      (async function * () {
        yield * parts
      })(),
      parameters,
      100
    )

  t.same(
    await read(
      field('prompt', '5'),
      field('steps', '20'),
      field('cfg_scale', ' 7.5 '),
      field('seed', '-1'),
      field('width', ''),
      field('loras', '[{"name":"a"}]'),
      field('hires', '{"scale":2}'),
      field('strength', '1e-1'),
      file('init_image', Buffer.from('x'))
    ),
    {
      fields: {
        prompt: '5',
        steps: 20,
        cfg_scale: 7.5,
        seed: -1,
        loras: [{ name: 'a' }],
        hires: { scale: 2 },
        strength: 0.1,
        init_image: '(file)'
      },
      files: { init_image: Buffer.from('x') }
    }
  )
  t.same(
    await read(file('ref_images', Buffer.from('a')), field('seed', '1'), file('ref_images', Buffer.from('b'))),
    { fields: { ref_images: ['(file)', '(file)'], seed: 1 }, files: { ref_images: [Buffer.from('a'), Buffer.from('b')] } },
    'a list of images is a file for each'
  )
  t.same((await read(field('ref_images', '["data:a"]'))).fields, { ref_images: ['data:a'] })
  t.same((await read(file('photo_maker_images', Buffer.from('a')))).files, { photo_maker_images: [Buffer.from('a')] })
  t.same((await read(field('parameters', '{"steps":1,"seed":2}'), field('seed', '3'))).fields, { steps: 1, seed: 3 })
  t.same(
    (
      await read(
        field('steps', 'many'),
        field('seed', '0x10'),
        field('loras', '[{'),
        field('cfg_scale', '1.2.3'),
        field('__proto__', '1')
      )
    ).fields,
    JSON.parse('{"steps":"many","seed":"0x10","loras":"[{","cfg_scale":"1.2.3","__proto__":"1"}'),
    'what is nothing of the kind stays, for the schema to refuse'
  )

  for (const [parts, status, message] of [
    [[field('seed', '1'), field('seed', '2')], 400, /one value for seed but received several/],
    [[file('mask', Buffer.alloc(1)), field('mask', 'x')], 400, /one value for mask/],
    [[field('ref_images', '["x"]'), file('ref_images', Buffer.alloc(1))], 400, /one value for ref_images/],
    [[file('ref_images', Buffer.alloc(1)), field('ref_images', '["x"]')], 400, /one value for ref_images/],
    [[file('ref_images', Buffer.alloc(60)), file('ref_images', Buffer.alloc(60))], 413, /ref_images is too large together/],
    [[field('parameters', '[1]')], 400, /an object in JSON for parameters/],
    [[field('parameters', 'null')], 400, /an object in JSON for parameters/],
    [[field('parameters', '{')], 400, /an object in JSON for parameters/],
    [[field('prompt', 'caf\ufffd')], 400, /text in UTF-8 for prompt but received bytes that are none, or the character U\+FFFD/],
    [[field('caf\ufffd', 'x')], 400, /text in UTF-8 for caf\ufffd/],
    [[field('init_image', 'abc', { valueTruncated: true })], 413, /init_image is too large/],
    [[file('prompt', Buffer.from('a fox'))], 400, /a field without a file name for prompt but received a file/],
    [[file('parameters', Buffer.from('{}'))], 400, /a field without a file name for parameters/],
    [[file('mask', Buffer.alloc(0), true)], 413, /mask is too large as a file \(--max-upload-size\)/]
  ] as const) { await t.rejects(read(...parts), { statusCode: status, message } as unknown as Error) }
  const broken = (async function * (): AsyncGenerator<FormPart> {
    yield field('seed', '1')
    throw new Error('Boundary not found')
  })()
  await t.rejects(readForm(broken, parameters, 100), {
    code: 'SDR_INVALID_REQUEST',
    message: /form can't be read: Boundary not found/
  })
})
