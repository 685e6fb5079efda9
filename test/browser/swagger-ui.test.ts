import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { chromium, type Page } from 'playwright-core'
import t from 'tap'
import { build, password } from '../helper.ts'

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
const isMissing = !existsSync(executablePath) && process.env.CI !== 'true'

/** Chromium keeps to this machine: nothing in the test may need the network. */
const quiet = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'
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

t.test('behind authentication an API key as the password of HTTP Basic gets a browser in', { skip: isMissing && `there is no ${executablePath}` }, async t => {
  const app = await build(t, { auth: 'api-key' })
  const { id } = await app.accounts.create({ username: 'alice', password, role: 'user' })
  const { key } = await app.keys.create({ userId: id, name: 'browser' })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const browser = await chromium.launch({ executablePath, args: quiet })
  t.teardown(() => browser.close())
  const stranger = await browser.newPage()
  t.equal((await stranger.goto(`${url}/api/docs`).catch(() => null))?.status() ?? 401, 401)
  const context = await browser.newContext({ httpCredentials: { username: 'alice', password: key } })
  const page = await context.newPage()
  await page.goto(`${url}/api/docs`)
  await page.locator('#operations-generate-generateTxt2Img').waitFor()
  t.pass('the page and its document are there')
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
async function photograph (page: Page, name: string): Promise<void> {
  const folder = process.env.SDREST_TEST_SCREENSHOTS
  if (folder === undefined) return
  mkdirSync(folder, { recursive: true })
  await page.screenshot({ path: join(folder, `${name}.png`) })
}
