import { once } from 'node:events'
import { connect, type AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'
import sharp from 'sharp'
import t from 'tap'
import type { Job } from '../../lib/jobs/job.ts'
import { as, build, expectError } from '../helper.ts'

/** Not Latin-1, so that a lossy way of writing it shows. */
const prompt = 'a red fox, ein Fuchs für 狐狸 🦊'

async function draw (app: FastifyInstance): Promise<Job> {
  const response = await app.inject({
    method: 'POST',
    url: '/api/generate/txt2img?wait=50',
    body: { prompt, steps: 1, width: 128, seed: 7 }
  })
  return response.json<Job>()
}

/** The UserComment of EXIF, as tools of the A1111 family write and read it. */
function commentIn (exif: Buffer): string {
  const start = exif.indexOf('UNICODE\0', 0, 'latin1')
  return start === -1
    ? ''
    : Buffer.from(exif.subarray(start + 8))
      .swap16()
      .toString('utf16le')
}

t.test('images in every format and size', async t => {
  const app = await build(t)
  const job = await draw(app)
  const { url, bytes } = job.images[0]!
  const original = await app.inject(url)

  t.test('the PNG as it is kept', async t => {
    t.equal(original.statusCode, 200)
    t.match(original.headers, {
      'content-type': 'image/png',
      'content-length': bytes,
      'content-disposition': `inline; filename="${job.id}-0.png"`,
      'x-content-type-options': 'nosniff',
      'cache-control': 'private, max-age=31536000, immutable',
      vary: 'Accept',
      etag: /^"[\w.-]+"$/
    })
    t.equal(original.rawPayload.length, bytes)
    t.ok(original.rawPayload.includes(Buffer.from(prompt)))
  })

  for (const format of ['jpeg', 'webp'] as const) {
    t.test(`${format} by Accept and by format, with the generation data`, async t => {
      const accepted = await app.inject({ url, headers: { accept: `image/${format}` } })
      const asked = await app.inject({ url: `${url}?format=${format}`, headers: { accept: 'image/png' } })
      t.same(asked.rawPayload, accepted.rawPayload)
      t.equal(asked.headers.etag, accepted.headers.etag)
      t.not(asked.headers.etag, original.headers.etag)
      t.match(asked.headers, {
        'content-type': `image/${format}`,
        'content-length': String(asked.rawPayload.length),
        'content-disposition': `inline; filename="${job.id}-0.${format}"`,
        'x-content-type-options': 'nosniff'
      })
      t.ok((await distance(asked.rawPayload, original.rawPayload)) < 8, 'it shows the same')
      const metadata = await sharp(asked.rawPayload).metadata()
      t.match(metadata, { format, width: 128, height: 128 })
      const comment = commentIn(metadata.exif!)
      t.match(comment, prompt)
      t.match(comment, /Seed: 7/)
    })
  }

  t.test('quality', async t => {
    const sizes = await Promise.all(
      [10, 50, 90].map(async quality => (await app.inject(`${url}?format=jpeg&quality=${quality}`)).rawPayload.length)
    )
    t.same(
      sizes,
      [...sizes].sort((a, b) => a - b)
    )
    t.equal(new Set(sizes).size, 3)
    t.same(
      (await app.inject(`${url}?format=jpeg&quality=90`)).rawPayload,
      (await app.inject(`${url}?format=jpeg`)).rawPayload
    )
    expectError(t, await app.inject(`${url}?format=jpeg&quality=1e400`), 400, 'SDR_INVALID_REQUEST', /quality/)
    expectError(t, await app.inject(`${url}?quality=50`), 400, 'SDR_INVALID_REQUEST', /quality.*PNG/)
  })

  t.test('thumbnails keep the proportions and the generation data, and are never larger', async t => {
    const small = await app.inject(`${url}?width=16`)
    t.match(await sharp(small.rawPayload).metadata(), { format: 'png', width: 16, height: 16 })
    t.ok(small.rawPayload.includes(Buffer.from(prompt)))
    const webp = await app.inject(`${url}?width=32&format=webp`)
    const metadata = await sharp(webp.rawPayload).metadata()
    t.match(metadata, { format: 'webp', width: 32, height: 32 })
    t.match(commentIn(metadata.exif!), prompt)
    const large = await app.inject(`${url}?width=2048`)
    t.same(large.rawPayload, original.rawPayload)
    t.equal(large.headers.etag, original.headers.etag)
    t.equal(new Set([small, webp, large].map(({ headers }) => headers.etag)).size, 3)
  })

  t.test('what Accept likes best; PNG when it likes several', async t => {
    for (const [accept, format] of [
      ['*/*', 'png'],
      ['image/*', 'png'],
      ['', 'png'],
      ['image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8', 'png'], // an <img> in a browser
      ['image/webp, image/png;q=0.5', 'webp'],
      ['image/jpeg;q=0.5, image/webp;q=0.4', 'jpeg'],
      ['IMAGE/WEBP', 'webp'],
      ['image/png;q=0, image/*', 'jpeg'],
      ['text/html, image/webp;q=0.2, */*;q=0.1', 'webp'],
      // None fits: generated clients ask for JSON, because the errors are.
      ...['application/json', 'text/html', 'image/avif', 'image/png;q=0', 'nonsense', ';;;,,,', '*/*;q=0', 'image/png;q=none']
        .map(accept => [accept, 'png'] as const)
    ] as const) {
      const { headers } = await app.inject({ url, headers: { accept } })
      t.equal(headers['content-type'], `image/${format}`, accept)
    }
  })

  t.test('If-None-Match', async t => {
    const tag = original.headers.etag as string
    for (const value of [tag, `W/${tag}`, `"other", ${tag}`, '*']) {
      const response = await app.inject({ url, headers: { 'if-none-match': value } })
      t.equal(response.statusCode, 304, value)
      t.equal(response.rawPayload.length, 0)
      t.match(response.headers, { etag: tag, 'cache-control': /immutable/, vary: 'Accept' })
    }
    for (const value of ['"other"', tag.slice(1, -1), '']) {
      t.equal((await app.inject({ url, headers: { 'if-none-match': value } })).statusCode, 200, value)
    }
    t.equal(
      (await app.inject({ url: `${url}?format=webp`, headers: { 'if-none-match': tag } })).statusCode,
      200,
      'each variant has its own'
    )
  })

  t.test('HEAD says what GET says, without the image', async t => {
    for (const query of ['', '?format=webp', '?format=jpeg&width=64']) {
      const get = await app.inject(url + query)
      const head = await app.inject({ method: 'HEAD', url: url + query })
      t.equal(head.statusCode, 200)
      t.equal(head.rawPayload.length, 0)
      for (const name of ['content-type', 'content-length', 'etag', 'cache-control']) {
        t.equal(head.headers[name], get.headers[name], name)
      }
    }
    t.equal(
      (await app.inject({ method: 'HEAD', url, headers: { 'if-none-match': original.headers.etag as string } }))
        .statusCode,
      304
    )
  })

  t.test('what is not there and what makes no sense', async t => {
    const base = url.slice(0, -1)
    expectError(t, await app.inject(`${base}1`), 404, 'SDR_IMAGE_NOT_FOUND')
    expectError(
      t,
      await app.inject('/api/queue/job/01a209d8-dac3-7abe-9e68-66331f86c4fb/images/0'),
      404,
      'SDR_JOB_NOT_FOUND'
    )
    for (const [query, field] of [
      ['format=gif', /format/],
      ['format=svg', /format/],
      ['width=15', /width/],
      ['width=2049', /width/],
      ['width=1e3.5', /width/],
      ['quality=0&format=jpeg', /quality/],
      ['quality=101&format=jpeg', /quality/],
      ['wdith=20', /width\?.* for wdith/],
      ['width=NaN', /width/]
    ] as const) { expectError(t, await app.inject(`${url}?${query}`), 400, 'SDR_INVALID_REQUEST', field) }
    for (const index of ['64', '-1', 'x', '0.5', '%00']) {
      expectError(t, await app.inject(base + index), 400, 'SDR_INVALID_REQUEST', /index/)
    }
  })

  t.test('many at once', async t => {
    const all = await Promise.all(
      Array.from({ length: 40 }, (_, n) => app.inject(`${url}?format=webp&width=${20 + n}`))
    )
    t.same(new Set(all.map(({ statusCode }) => statusCode)), new Set([200]))
    const flood = await Promise.all(Array.from({ length: 120 }, () => app.inject(`${url}?format=jpeg`)))
    const refused = flood.filter(({ statusCode }) => statusCode !== 200)
    t.ok(refused.length > 0 && refused.length < flood.length, 'some wait, the rest is refused')
    t.ok(refused.every(({ statusCode, headers }) => statusCode === 429 && Number(headers['retry-after']) > 0))
    t.equal((await app.inject(`${url}?format=jpeg`)).statusCode, 200, 'and then as before')
  })

  t.test('over a connection: HEAD and 304 leave it usable', async t => {
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as AddressInfo
    const socket = connect(port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    let received = ''
    socket.setEncoding('latin1').on('data', (text: string) => {
      received += text
    })
    const ask = (method: string, query: string, more = '') =>
      socket.write(`${method} ${url}${query} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n${more}\r\n`)
    ask('HEAD', '')
    ask('HEAD', '?format=webp')
    ask('GET', '', `If-None-Match: ${original.headers.etag as string}\r\n`)
    ask('GET', '?format=jpeg&width=16', 'Connection: close\r\n')
    await once(socket, 'end')
    t.same(received.match(/HTTP\/1\.1 \d+/g), ['HTTP/1.1 200', 'HTTP/1.1 200', 'HTTP/1.1 304', 'HTTP/1.1 200'])
    const last = received.slice(received.lastIndexOf('\r\n\r\n') + 4)
    t.equal(String(last.length), (await app.inject(`${url}?format=jpeg&width=16`)).headers['content-length'])
  })
})

t.test('an image belongs to its owner in every form', async t => {
  const app = await build(t, { auth: 'jwt' })
  const alice = await as(app, 'alice')
  const bob = await as(app, 'bob')
  const job = (
    await alice({ method: 'POST', url: '/api/generate/txt2img?wait=50', body: { prompt, steps: 1 } })
  ).json<Job>()
  const { url } = job.images[0]!
  const { etag } = (await alice(url)).headers
  for (const query of ['', '?format=webp', '?width=16']) {
    expectError(
      t,
      await bob({ url: url + query, headers: { 'if-none-match': etag as string } }),
      404,
      'SDR_JOB_NOT_FOUND'
    )
    expectError(t, await app.inject(url + query), 401, 'SDR_UNAUTHENTICATED')
  }
})

/** Mean difference of two pictures, seen from afar: this noise is what such formats change most. */
async function distance (one: Buffer, other: Buffer): Promise<number> {
  const [a, b] = await Promise.all([one, other].map(async image => await sharp(image).resize(8).raw().toBuffer()))
  return a!.reduce((sum, value, index) => sum + Math.abs(value - b![index]!), 0) / a!.length
}
