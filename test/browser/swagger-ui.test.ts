import { existsSync, mkdirSync } from 'node:fs'
import { createServer, request as forward } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { chromium, type Locator, type Page } from 'playwright-core'
import sharp from 'sharp'
import t from 'tap'
import { writeCheckpoint } from '../../bin/support/demo-model/checkpoints.ts'
import { build, password } from '../helper.ts'

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
const isMissing = !existsSync(executablePath) && process.env.CI !== 'true'

/** A name that, unlike localhost, browsers do not treat as if it had HTTPS: they send no Sec-Fetch-Site to it. */
const plainName = 'images.example'

/** Chromium keeps to this machine: nothing in the test may need the network. */
const quiet = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  `--host-resolver-rules=MAP ${plainName} 127.0.0.1`
]

t.test('Swagger UI in a browser', { skip: isMissing && `there is no ${executablePath}; apt-get install chromium, or set CHROMIUM` }, async t => {
  const app = await build(t, { auth: 'jwt', 'public-paths': '/api/docs,/api/openapi.json' })
  await app.accounts.create({ username: 'alice', password, role: 'admin' })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const browser = await chromium.launch({ executablePath, args: quiet })
  t.teardown(() => browser.close())
  const page = await browser.newPage({ viewport: { width: 1200, height: 1400 } })
  const complaints: string[] = []
  const requested: string[] = []
  page.on('console', message => { if (message.type() === 'error') complaints.push(message.text()) })
  page.on('pageerror', error => complaints.push(error.message))
  page.on('request', request => requested.push(request.url()))

  await page.goto(`${url}/api/docs`)
  await page.locator('#operations-generate-generateTxt2Img').waitFor()
  t.equal(await page.title(), 'stable-diffusion-rest')
  await photograph(page, 'overview')

  const login = await execute(page, 'authentication-login', { body: { username: 'alice', password } })
  t.equal(login.status, '200')
  const { token } = JSON.parse(login.body) as { token: string }

  await authorize(page, 'bearer', token)
  const drawn = await execute(page, 'generate-generateTxt2Img', { body: { prompt: 'a red fox', width: 64, steps: 2, seed: 1 }, parameters: { wait: '30' } })
  t.equal(drawn.status, '200')
  const { id, status } = JSON.parse(drawn.body) as { id: string, status: string }
  t.equal(status, 'completed')

  const image = page.locator('#operations-queue-getImage')
  await execute(page, 'queue-getImage', { parameters: { id, index: '0' } })
  const picture = image.locator('.responses-inner img')
  await picture.waitFor()
  t.equal(await picture.evaluate((element: { naturalWidth: number }) => element.naturalWidth), 64, 'the image shows')
  await picture.scrollIntoViewIfNeeded()
  await photograph(page, 'image')

  t.same(complaints, [], 'the browser has nothing to complain about')
  t.same(requested.filter(one => !one.startsWith(url) && !one.startsWith('data:') && !one.startsWith('blob:')), [], 'everything comes from this server')
})

for (const width of [1280, 390]) {
  t.test(`from the address of the server to a picture, ${width} pixels wide`, { skip: isMissing && `there is no ${executablePath}` }, async t => {
    const app = await build(t, { auth: 'jwt' })
    await app.accounts.create({ username: 'alice', password, role: 'user' })
    writeCheckpoint('sdxs', join(app.config.modelsDir[0]!, 'sdxs.safetensors'))
    await app.models.rescan()
    const url = await app.listen({ host: '127.0.0.1', port: 0 })
    const browser = await chromium.launch({ executablePath, args: quiet })
    t.teardown(() => browser.close())
    const page = await browser.newPage({ viewport: { width, height: 800 }, isMobile: width < 600 })
    const complaints: string[] = []
    page.on('console', message => { if (message.type() === 'error') complaints.push(message.text()) })
    page.on('pageerror', error => complaints.push(error.message))

    t.equal((await page.goto(url))?.status(), 401)
    await photograph(page, `sign-in-${width}`)
    await page.getByLabel('User name').fill('alice')
    await page.getByLabel('Password').fill('wrong')
    await page.getByRole('button').click()
    await page.getByRole('alert').filter({ hasText: 'The user name or the password is wrong' }).waitFor()
    complaints.length = 0 // the browser reports each 401
    await page.getByLabel('User name').fill('alice')
    await page.getByLabel('Password').fill(password)
    await page.getByRole('button').click()
    await page.locator('#operations-generate-generateTxt2Img').waitFor()
    t.match(page.url(), /\/api\/docs\/$/)
    t.equal(await page.evaluate(() => (globalThis as any).document.documentElement.scrollWidth), width, 'nothing is wider than the screen')
    t.equal(await page.evaluate(() => (globalThis as any).innerWidth), width, 'the page is as wide as the screen')
    await photograph(page, `documentation-${width}`)

    const txt2img = page.locator('#operations-generate-generateTxt2Img')
    await txt2img.locator('.opblock-summary-control').click()
    await txt2img.locator('.responses-inner').waitFor()
    const { height } = (await txt2img.boundingBox())!
    await photograph(page, `txt2img-${width}`, txt2img)
    if (width === 1280) t.ok(height <= 2 * 800, `an opened operation fits on two screens: ${height} pixels`)
    await txt2img.locator('.opblock-summary-control').click()

    const drawn = await execute(page, 'generate-generateTxt2Img', { body: { prompt: 'a red fox', width: 64, steps: 2, seed: 1 }, parameters: { wait: '30' } })
    t.equal(drawn.status, '200', drawn.body)
    const { id } = JSON.parse(drawn.body) as { id: string }
    await execute(page, 'queue-getImage', { parameters: { id, index: '0' } })
    await page.locator('#operations-queue-getImage .responses-inner img').waitFor()

    const form = page.locator('#operations-generate-generateImg2ImgForm')
    await form.locator('.opblock-summary-control').click()
    const file = form.locator('input[type=file]').first()
    await file.waitFor()
    await photograph(page, `img2img-${width}`, form)
    for (const part of await form.locator('button.execute, .try-out button, .opblock-section-request-body input').all()) {
      const { x, width: wide } = (await part.boundingBox())!
      if (x + wide > width) t.fail(`a control ends at ${x + wide}, outside of the screen`)
    }
    const field = (name: string) => form.locator(`[data-property-name="${name}"] input`).first()
    await file.setInputFiles({ name: 'fox.png', mimeType: 'image/png', buffer: await plainPng() })
    await field('prompt').fill('a red fox')
    for (const side of ['width', 'height']) await field(side).fill('64')
    await form.locator('tr[data-param-name="wait"] input').fill('60')
    await form.locator('button.execute').click()
    const response = form.locator('.live-responses-table .response').first()
    await response.waitFor({ timeout: 60_000 })
    const answer = await response.innerText()
    t.match(answer, /^200/, answer)
    t.match(answer, '"type": "img2img"')
    t.notMatch(answer, '"string"', 'nothing that was not typed was sent')
    t.same(complaints, [], 'the browser has nothing to complain about')
  })
}

t.test('sign-in over plain HTTP, at a name of the network', { skip: isMissing && `there is no ${executablePath}` }, async t => {
  const app = await build(t, { auth: 'jwt' })
  await app.accounts.create({ username: 'alice', password, role: 'user' })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const browser = await chromium.launch({ executablePath, args: quiet })
  t.teardown(() => browser.close())
  const page = await browser.newPage()
  await page.goto(url.replace('127.0.0.1', plainName))
  await signIn(page)
  const made = await execute(page, 'authentication-createKey', { body: { name: 'laptop' } })
  t.equal(made.status, '201', made.body)
})

t.test('below the path of a proxy', { skip: isMissing && `there is no ${executablePath}` }, async t => {
  const browser = await chromium.launch({ executablePath, args: quiet })
  t.teardown(() => browser.close())
  const app = await build(t, { auth: 'jwt', 'base-path': '/draw' })
  await app.accounts.create({ username: 'alice', password, role: 'user' })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  for (const isTakenOff of [true, false]) {
    const outside: string[] = []
    const proxy = createServer((request, response) => {
      const path = request.url!
      if (!path.startsWith('/draw')) outside.push(path)
      request.pipe(forward(url, {
        path: isTakenOff ? path.replace('/draw', '') || '/' : path, method: request.method, headers: request.headers
      }, answer => answer.pipe(response.writeHead(answer.statusCode!, answer.headers))))
    })
    await new Promise<void>(resolve => proxy.listen(0, '127.0.0.1', resolve))
    t.teardown(() => {
      proxy.closeAllConnections()
      proxy.close()
    })
    for (const start of ['/draw', '/draw/', '/draw/api/docs', '/draw/api/docs/?x=1']) {
      const context = await browser.newContext()
      const page = await context.newPage()
      await page.goto(`http://127.0.0.1:${(proxy.address() as AddressInfo).port}${start}`)
      await signIn(page)
      t.match(page.url(), /\/draw\/api\/docs\/$/, start)
      t.match(JSON.parse((await execute(page, 'authentication-getMe')).body), { username: 'alice' })
      await context.close()
    }
    t.same(outside.filter(path => path !== '/favicon.ico'), [], 'every address is below the path')
  }
})

for (const scheme of ['bearer', 'apiKey']) {
  t.test(`Authorize works for ${scheme}`, { skip: isMissing && `there is no ${executablePath}` }, async t => {
    const app = await build(t, { auth: 'optional', 'guest-permissions': 'models:read' })
    const { id } = await app.accounts.create({ username: 'alice', password, role: 'user' })
    const { key } = await app.keys.create({ userId: id, name: 'browser' })
    const url = await app.listen({ host: '127.0.0.1', port: 0 })
    const browser = await chromium.launch({ executablePath, args: quiet })
    t.teardown(() => browser.close())
    const asks = async (credential?: string) => {
      const page = await browser.newPage()
      await page.goto(`${url}/api/docs`)
      if (credential !== undefined) await authorize(page, scheme, credential)
      return await execute(page, 'authentication-getMe')
    }
    t.match((await asks()).body, '"guest"')
    const me = await asks(key)
    t.equal(me.status, '200')
    t.match(JSON.parse(me.body), { username: 'alice', via: 'api-key' })
  })
}

async function signIn (page: Page): Promise<void> {
  await page.getByLabel('User name').fill('alice')
  await page.getByLabel('Password').fill(password)
  await page.getByRole('button').click()
  await page.locator('#operations-authentication-getMe').waitFor()
}

async function authorize (page: Page, scheme: string, credential: string): Promise<void> {
  await page.locator('button.authorize').first().click()
  const dialog = page.locator('.auth-container', { hasText: new RegExp(`^${scheme}`) })
  await dialog.locator('input').fill(credential)
  await dialog.locator('button[type=submit]').click()
  await page.locator('.btn-done').first().click()
}

/** Opens an operation, fills it in and sends it, as a person would. */
async function execute (
  page: Page, operation: string, { body, parameters = {} }: { body?: object, parameters?: Record<string, string> } = {}
) {
  const block = page.locator(`#operations-${operation}`)
  await block.locator('.opblock-summary-control').click()
  for (const [name, value] of Object.entries(parameters)) await block.locator(`tr[data-param-name="${name}"] input`).fill(value)
  if (body !== undefined) await block.locator('textarea.body-param__text').fill(JSON.stringify(body))
  await block.locator('button.execute').click()
  const response = block.locator('.live-responses-table .response').first()
  await response.waitFor({ timeout: 40_000 })
  const status = await response.locator('.response-col_status').first().innerText()
  const shown = response.locator('.highlight-code code, .microlight').first()
  return { status: status.split('\n')[0]!.trim(), body: await shown.count() === 0 ? '' : await shown.innerText() }
}

/** For people who want to see what the test saw: SDREST_TEST_SCREENSHOTS names a folder. */
async function photograph (page: Page, name: string, part?: Locator): Promise<void> {
  const folder = process.env.SDREST_TEST_SCREENSHOTS
  if (folder === undefined) return
  mkdirSync(folder, { recursive: true })
  await (part ?? page).screenshot({ path: join(folder, `${name}.png`) })
}

async function plainPng (): Promise<Buffer> {
  return await sharp({ create: { width: 16, height: 16, channels: 3, background: '#cc8844' } }).png().toBuffer()
}
