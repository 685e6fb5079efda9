import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import type { CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import { ApiClient } from '../support/client.ts'
import { followJob } from '../support/follow-job.ts'
import { refuseUnwritable, saveNew } from '../support/new-file.ts'
import { writeCheckpoint } from '../support/demo-model/checkpoints.ts'
import { fileArgument } from '../support/command-options.ts'
import { say } from '../support/say.ts'

/** Milliseconds that a server may take to listen; it takes one second. */
const startTimeout = 60_000

const username = 'demo'
const prompt = 'a red fox in the snow'
const request = { prompt, width: 128, steps: 20, seed: 42 }

interface Arguments {
  keep: boolean
  output: string
}

/** `demo`: the whole way once, with real parts and a model of random weights. */
export const demo: CommandModule<object, Arguments> = {
  builder: yargs => yargs
    .option('keep', { type: 'boolean', default: false, describe: 'Leave the server running until Ctrl-C' })
    .option('output', {
      type: 'string',
      requiresArg: true,
      default: 'stable-diffusion-rest-demo.png',
      describe: 'Where to save the picture'
    }),
  handler: runDemo
}

async function runDemo ({ keep, output }: Arguments): Promise<void> {
  const file = resolve(fileArgument('output', output))
  refuseUnwritable(file, true)
  const folder = mkdtempSync(join(tmpdir(), 'stable-diffusion-rest-demo-'))
  let server: ChildProcess | undefined
  const stop = async () => {
    if (server?.exitCode === null && server.signalCode === null) {
      server.kill('SIGTERM')
      await once(server, 'exit')
    }
    rmSync(folder, { recursive: true, force: true })
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => stop().then(() => process.exit(exitCodes.ok)))
  }
  try {
    const models = join(folder, 'models')
    mkdirSync(models)
    await writeCheckpoint('minit2i', join(models, 'minit2i.safetensors'))
    tell('model', 'minit2i.safetensors: the right shapes, random weights, 2.4 MB. Expect a pattern, not a fox')

    const data = join(folder, 'data')
    const password = randomBytes(12).toString('base64url')
    await runItself(['user', 'add', username, '--password-stdin', '--data-dir', data], password)
    tell('account', `${username}, by: stable-diffusion-rest user add ${username}`)

    const started = await startServer([
      '--models-dir', models, '--auth', 'jwt', '--port', '0', '--threads', '1', '--data-dir', data
    ])
    server = started.server
    const { url } = started
    tell('server', `${url}, by: stable-diffusion-rest --models-dir DIR --auth jwt`)

    const client = new ApiClient(url)
    tell('public', `GET /api/health → ${await client.statusOf('/api/health')}`)
    tell('closed', `GET /api/models → ${await client.statusOf('/api/models')} without a token`)
    await client.login(username, password)
    tell('login', `POST /api/auth/login → a token; with it GET /api/models → ${await client.statusOf('/api/models')}`)

    const job = await followJob(client, await client.submit('txt2img', request))
    const image = job.images[0]
    if (image === undefined) {
      throw new CommandError(exitCodes.failure, `The job ${job.status}: ${job.error?.message ?? 'no image came'}`)
    }
    saveNew(file, await client.image(image.url), true)
    tell('picture', `${file} (${image.width}×${image.height}, seed ${image.seed}, ${image.bytes} bytes)`)

    say(`\n${byHand(url, keep ? password : undefined)}`)
    if (keep) {
      say(`\nThe server stays up until Ctrl-C. Swagger UI: ${url}/api/docs`)
      await once(server, 'exit')
    }
  } finally {
    await stop()
  }
}

function tell (what: string, text: string): void {
  say(`  ${what.padEnd(8)} ${text}`)
}

/** Runs this program with other arguments, the way a user would, and without options of the caller's environment. */
const program = process.argv[1]!
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('SDREST_')))

async function runItself (parameters: string[], input: string): Promise<void> {
  const running = promisify(execFile)(process.execPath, [program, ...parameters], { env: environment })
  running.child.stdin!.end(input)
  await running.catch(({ code, stderr }: { code: number | null, stderr: string }) => {
    process.stderr.write(stderr)
    throw new CommandError(exitCodes.failure, `stable-diffusion-rest ${parameters[0]} failed with exit code ${code}`)
  })
}

async function startServer (parameters: string[]): Promise<{ server: ChildProcess, url: string }> {
  const server = spawn(process.execPath, [program, ...parameters], {
    env: environment,
    stdio: ['ignore', 'pipe', 'inherit']
  })
  const timer = setTimeout(() => server.kill('SIGKILL'), startTimeout)
  try {
    for await (const line of createInterface({ input: server.stdout })) {
      const [url] = /http:\/\/127\.0\.0\.1:\d+/.exec((JSON.parse(line) as { msg: string }).msg) ?? []
      if (url !== undefined) return { server, url }
    }
  } finally {
    clearTimeout(timer)
    server.stdout.resume() // its log is no longer read, and a full pipe would stop it
  }
  throw new CommandError(exitCodes.failure, 'The server ended before it listened; its message is above')
}

/** @param password undefined when the server has ended by then. */
function byHand (url: string, password = '…'): string {
  const bearer = '-H "Authorization: Bearer $TOKEN"'
  return [
    password === '…' ? 'The same by hand, on the server that --keep leaves up:' : 'The same by hand:',
    '',
    `  TOKEN=$(curl -s ${url}/api/auth/login -H 'Content-Type: application/json' \\`,
    `    -d '${JSON.stringify({ username, password })}' | node -p 'JSON.parse(require("fs").readFileSync(0)).token')`,
    `  curl -s '${url}/api/generate/txt2img?wait=60' ${bearer} -H 'Content-Type: application/json' \\`,
    `    -d '${JSON.stringify(request)}'`,
    `  curl -sN ${url}/api/queue/job/ID/events ${bearer}`,
    `  curl -s ${url}/api/queue/job/ID/images/0 ${bearer} -o fox.png`
  ].join('\n')
}
