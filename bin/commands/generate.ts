import { readFileSync } from 'node:fs'
import { extname } from 'node:path'
import { text } from 'node:stream/consumers'
import type { Argv, CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import { ApiClient, ServerError } from '../support/client.ts'
import { followJob } from '../support/follow-job.ts'
import type { Job } from '../../lib/jobs/job.ts'
import { numbered, refuseUnwritable, saveNew } from '../support/new-file.ts'
import { inlineImage, terminalProtocol } from '../support/terminal-image.ts'
import { fileArgument } from '../support/command-options.ts'
import { say, sayImage } from '../support/say.ts'
import { systemReason, visibleField } from '../../lib/util/text.ts'

/** What a request says, by option: the name is that of the field, with `-` for `_`. */
const fields = {
  model: 'Id or name of the model; the server chooses one when there is none',
  'negative-prompt': 'What the image should not show',
  width: 'Pixels',
  height: 'Pixels',
  steps: 'Sampling steps',
  'cfg-scale': 'How closely the prompt is followed',
  seed: 'The same request with the same seed gives the same image',
  sampler: 'GET /api/samplers lists them',
  scheduler: 'GET /api/schedulers lists them',
  'batch-count': 'Images to draw',
  'clip-skip': 'Layers of CLIP to leave out',
  strength: 'How far --init-image is drawn anew, 0 to 1'
} as const

/** Options that name a file with an image. */
const images = {
  'init-image': 'Image to begin with; makes it img2img',
  mask: 'White is what to draw anew in --init-image; makes it inpaint',
  'control-image': 'Image whose lines to follow; makes it controlnet'
} as const

/** Options that name a file. */
const files = ['output', 'token-file', ...Object.keys(images) as Array<keyof typeof images>] as const

/** Fields that are text even when they look like a number. */
const texts: readonly string[] = ['model', 'negative-prompt', 'sampler', 'scheduler']

/** Bytes of an image that is sent; the server's own limit is lower. */
const largestImage = 64 * 1024 * 1024

type Arguments = Partial<Record<keyof typeof fields | keyof typeof images, string>> & {
  prompt: string
  output: string
  server: string
  token?: string
  'token-file'?: string
  set: string[]
  force: boolean
  inline: 'auto' | 'never'
}

/** `generate`: draws on a running server, with a progress bar, and shows the picture where the terminal can. */
export const generate: CommandModule<object, Arguments> = {
  builder: yargs => withGroup(withGroup(yargs, 'Request:', fields), 'Request:', images)
    .positional('prompt', { type: 'string', demandOption: true, describe: 'What to draw' })
    .option('set', {
      group: 'Request:',
      type: 'string',
      array: true,
      nargs: 1,
      default: [],
      describe: 'Any other field of the request: NAME=VALUE, the value as JSON or text'
    })
    .option('lora', { hidden: true, alias: 'loras' })
    .check(({ lora }) => lora === undefined ||
      'A LoRA is part of the prompt: generate "a red fox <lora:NAME:0.8>"')
    .option('server', {
      group: 'Server:',
      type: 'string',
      requiresArg: true,
      default: process.env.SDREST_SERVER ?? 'http://127.0.0.1:8080',
      describe: 'Its address (or SDREST_SERVER)'
    })
    .option('token', {
      group: 'Server:',
      type: 'string',
      requiresArg: true,
      describe: 'Token or API key; SDREST_TOKEN and --token-file keep it out of ps'
    })
    .option('token-file', {
      group: 'Server:',
      type: 'string',
      requiresArg: true,
      describe: 'File with the token or API key; - is standard input'
    })
    .conflicts('token', 'token-file')
    .option('output', {
      alias: 'o',
      group: 'Output:',
      type: 'string',
      requiresArg: true,
      default: 'image.png',
      describe: 'Where to save it; several are numbered. The ending chooses PNG, JPEG or WebP'
    })
    .option('force', {
      alias: 'f',
      group: 'Output:',
      type: 'boolean',
      default: false,
      describe: 'Replace files that are there'
    })
    .option('inline', {
      group: 'Output:',
      choices: ['auto', 'never'] as const,
      default: 'auto' as const,
      describe: 'Show the picture in a terminal that can'
    }) as unknown as Argv<Arguments>,
  handler: async given => {
    // Of a repeated option the last one counts, as everywhere.
    const argv = Object.fromEntries(Object.entries(given).map(([name, value]) =>
      [name, Array.isArray(value) && name !== 'set' ? value.at(-1) as unknown : value])) as unknown as Arguments
    for (const name of files) if (argv[name] !== undefined) argv[name] = fileArgument(name, argv[name])
    try {
      await run(argv)
    } catch (error) {
      throw toCommandError(error, argv.server)
    }
  }
}

function withGroup (yargs: Argv, group: string, options: Readonly<Record<string, string>>): Argv {
  for (const [name, describe] of Object.entries(options)) {
    yargs.option(name, { group, describe, requiresArg: true })
  }
  return yargs
}

async function run (argv: Arguments): Promise<void> {
  const request = requestOf(argv)
  const accept = typeOf(argv.output)
  const expected = Number(request.batch_count ?? 1)
  for (let index = 0; index < Math.min(expected, 100); index++) {
    refuseUnwritable(numbered(argv.output, index, expected), argv.force)
  }
  if (!/^https?:\/\//i.test(argv.server) || !URL.canParse(argv.server)) {
    throw new CommandError(exitCodes.usage, 'Expected an address with http:// or https:// for --server ' +
      `but received ${JSON.stringify(argv.server)}; for example http://127.0.0.1:8080`)
  }
  const client = new ApiClient(argv.server, await credential(argv))

  const accepted = await client.submit(jobTypeOf(argv), request)
  const job = await untilEnd(client, accepted)
  if (job.status !== 'completed') {
    throw new CommandError(exitCodes.failure,
      `The job ${job.status}${job.error === null ? '' : `: ${job.error.message}`}`)
  }
  const { notices } = job.result ?? {}
  if (Array.isArray(notices)) for (const notice of notices) process.stderr.write(`  ${visibleField(String(notice))}\n`)
  const protocol = argv.inline === 'auto' && process.stdout.isTTY ? terminalProtocol(process.env) : undefined
  for (const { index, url, width, height, seed } of job.images) {
    const file = numbered(argv.output, index, job.images.length)
    const bytes = await client.image(url, accept)
    saveNew(file, bytes, argv.force)
    // Terminals take PNG, whatever was asked for the file.
    if (protocol !== undefined) {
      sayImage(inlineImage(protocol, accept === 'image/png' ? bytes : await client.image(url), file))
    }
    process.stderr.write(`  ${width}×${height}, seed ${seed}\n`)
    say(file)
  }
}

/** Follows the job; the first Ctrl-C cancels it on the server, the second one leaves it alone. */
async function untilEnd (client: ApiClient, job: Job): Promise<Job> {
  let isInterrupted = false
  const interrupt = (): void => {
    if (isInterrupted) process.exit(exitCodes.interrupted)
    isInterrupted = true
    process.stderr.write('\n  Cancelling the job; once more leaves at once\n')
    client.cancel(job.id).catch((error: Error) => process.stderr.write(`  ${error.message}\n`))
  }
  process.on('SIGINT', interrupt)
  process.on('SIGTERM', interrupt)
  try {
    const ended = await followJob(client, job)
    if (isInterrupted && ended.status === 'cancelled') {
      throw new CommandError(exitCodes.interrupted, `The job ${job.id} was cancelled`)
    }
    return ended
  } finally {
    process.off('SIGINT', interrupt)
    process.off('SIGTERM', interrupt)
  }
}

function requestOf (argv: Arguments): Record<string, unknown> {
  const request: Record<string, unknown> = { prompt: argv.prompt }
  for (const name of Object.keys(fields) as Array<keyof typeof fields>) {
    const value = argv[name]
    if (value !== undefined) request[name.replaceAll('-', '_')] = texts.includes(name) ? value : number(name, value)
  }
  for (const name of Object.keys(images) as Array<keyof typeof images>) {
    const file = argv[name]
    if (file !== undefined) request[name.replaceAll('-', '_')] = readImage(name, file)
  }
  for (const assignment of argv.set) {
    const [, name, value] = /^(\w+)=(.*)$/s.exec(assignment) ?? []
    if (name === undefined) {
      throw new CommandError(exitCodes.usage,
        `Expected NAME=VALUE for --set but received ${JSON.stringify(assignment)}`)
    }
    request[name] = jsonOrText(value!)
  }
  return request
}

function number (name: string, text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) {
    throw new CommandError(exitCodes.usage, `Expected a number for --${name} but received ${JSON.stringify(text)}`)
  }
  return value
}

function jsonOrText (text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return text // the other thing that it may be
  }
}

function readImage (name: string, file: string): string {
  try {
    const bytes = readFileSync(file)
    if (bytes.length > largestImage) throw new Error(`it is larger than ${largestImage} bytes`)
    return bytes.toString('base64')
  } catch (error) {
    throw new CommandError(exitCodes.storage, `The image of --${name} cannot be read: ${systemReason(error)}`)
  }
}

function jobTypeOf (argv: Arguments): string {
  if (argv['control-image'] !== undefined) return 'controlnet'
  if (argv.mask !== undefined) return 'inpaint'
  return argv['init-image'] === undefined ? 'txt2img' : 'img2img'
}

function typeOf (file: string): string {
  const types: Record<string, string> = {
    '.png': 'image/png',
    '.jpg': 'image/jpeg',
    '.jpeg': 'image/jpeg',
    '.webp': 'image/webp'
  }
  const type = types[extname(file).toLowerCase()]
  if (type === undefined) {
    throw new CommandError(exitCodes.usage,
      `Expected a name that ends in .png, .jpg or .webp for --output but received ${JSON.stringify(file)}`)
  }
  return type
}

async function credential ({ token, 'token-file': file }: Arguments): Promise<string | undefined> {
  if (token !== undefined) process.title = 'stable-diffusion-rest' // no longer in ps
  try {
    const found = file === undefined
      ? token ?? process.env.SDREST_TOKEN
      : file === '-' ? await text(process.stdin) : readFileSync(file, 'utf8')
    return found?.trim() === '' ? undefined : found?.trim()
  } catch (error) {
    throw new CommandError(exitCodes.storage, `The token cannot be read: ${systemReason(error)}`)
  }
}

function toCommandError (error: unknown, server: string): unknown {
  if (error instanceof ServerError) {
    const hint = error.status === 401 ? ' Give a token or an API key by SDREST_TOKEN or --token-file.' : ''
    return new CommandError(exitCodes.failure, `${error.message}${hint} (${error.code})`)
  }
  const { name, cause } = error as Error & { cause?: NodeJS.ErrnoException }
  if (name === 'TimeoutError') return new CommandError(exitCodes.failure, `${server} does not answer`)
  if (error instanceof TypeError && cause !== undefined) {
    const reasons: Record<string, string> = {
      ECONNREFUSED: 'nothing listens there. Is the server running? Give its address by --server or SDREST_SERVER',
      ENOTFOUND: 'its host is not known'
    }
    const reason = reasons[cause.code ?? ''] ?? (cause.message === '' ? cause.code : cause.message)
    return new CommandError(exitCodes.failure, `${server} cannot be reached: ${reason}`)
  }
  return error
}
