import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { packageRoot } from '../lib/util/package-root.ts'
import { runPage } from './docs-commands.ts'
import { writeCheckpoint } from '../bin/support/demo-model/checkpoints.ts'
import { without } from './fixtures/pam/system.ts'

t.setTimeout(180_000)
const tools = ['curl', 'sqlite3']
const noTools = without(tools.join(' and '), tools.every(tool => spawnSync('sh', ['-c', `command -v ${tool}`]).status === 0))

async function freePort (): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  return port
}

/** Lines of sh that succeed when they are given these words. */
const oneOf = (...words: string[]) => words.map(words => `[ "$*" = "${words}" ]`).join(' || ')

t.test('docs/operations.md', { skip: noTools }, async t => {
  const system = mkdtempSync(join(tmpdir(), 'sdrest-system-'))
  t.teardown(() => rmSync(system, { recursive: true, force: true }))
  const models = join(system, 'models')
  for (const folder of [models, ...['etc', 'systemd', 'var'].map(name => join(system, name))]) mkdirSync(folder)
  writeCheckpoint('minit2i', join(models, 'minit2i.safetensors'))
  const unit = join(system, 'stable-diffusion-rest.service')
  copyFileSync(join(packageRoot, 'deploy', 'stable-diffusion-rest.service'), unit)

  const { folder } = await runPage(t, 'docs/operations.md', {
    replace: {
      '/data/SD_MODELS': models,
      'deploy/stable-diffusion-rest.service': unit,
      'deploy/engine-user.conf': join(packageRoot, 'deploy', 'engine-user.conf'),
      '/etc/systemd/system/': `${system}/systemd/`,
      '/etc/stable-diffusion-rest': join(system, 'etc', 'server'),
      '/var/lib/stable-diffusion-rest': join(system, 'var', 'server'),
      ':9464': `:${await freePort()}`,
      '--steps 20': '--steps 2 --width 64'
    },
    // What would change this machine only has its words checked; test/package.test.ts installs the package.
    programs: {
      npm: '[ "$*" = "install -g stable-diffusion-rest-0.1.0.tgz" ]',
      useradd: oneOf(
        '--system --no-create-home stable-diffusion-rest',
        '--system --no-create-home --groups video,render stable-diffusion-engine'
      ),
      systemctl: oneOf('daemon-reload', 'enable --now stable-diffusion-rest', 'restart stable-diffusion-rest'),
      // test/bin/engine-user.test.ts starts a server like that.
      setpriv: oneOf('--reuid=stable-diffusion-rest --regid=stable-diffusion-rest --init-groups --no-new-privs ' +
        ['inh-caps', 'ambient-caps', 'bounding-set'].map(set => `--${set}=-all,+setuid,+setgid,+kill`).join(' ') +
        ' stable-diffusion-rest --engine-user stable-diffusion-engine'),
      runuser: '[ "$1 $2 $3" = "-u stable-diffusion-rest --" ] && shift 3 && exec "$@"'
    }
  })
  t.equal(readFileSync(join(folder, 'work', 'fox.png')).subarray(1, 4).toString(), 'PNG')
})
