import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { runPage } from './docs-commands.ts'
import { safetensors, typical } from './fixtures/headers.ts'
import { fileServer, sendFile } from './lib/models/fixtures/file-server.ts'

t.test('the commands of docs/models.md work', async t => {
  const lora = safetensors(typical.lora)
  const hub = await fileServer(t, (request, response) => { sendFile(request, response, lora) })
  const { folder } = await runPage(t, 'docs/models.md', { env: { SDREST_HF_ENDPOINT: hub.url, SDREST_PULL_HOSTS: '127.0.0.1' } })
  t.strictSame(hub.requests.map(({ url }) => url), Array(2).fill('/owner/repository/resolve/main/ink.safetensors'))
  t.strictSame(readdirSync(join(folder, 'models/loras')), [], 'what was fetched is deleted at the end')
  t.strictSame(readdirSync(join(folder, 'models')).sort(), ['loras', 'minit2i.safetensors'])
})
